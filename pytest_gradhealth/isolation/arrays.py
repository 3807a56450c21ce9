"""NumPy's arrays: what they hold, kept before a probe and compared after another."""

from __future__ import annotations

import sys
import zlib
from dataclasses import dataclass
from typing import Any

#: Bytes of an array beyond which reading it is left to a new probe.
LARGE = 2**26


def is_array(kind: type) -> bool:
    """Whether a class is one of arrays, without loading NumPy."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and issubclass(kind, numpy.ndarray)


def is_readable(array: Any) -> bool:
    """Whether all that an array holds can be compared: no objects, no file, not too much."""
    numpy: Any = sys.modules["numpy"]
    in_file = isinstance(array, numpy.memmap)
    return not in_file and array.dtype != object and array.nbytes <= LARGE


def digest(array: Any) -> tuple[object, ...]:
    """Shape, type and numbers of a readable array, in short."""
    plain = _plain(array)
    return plain.shape, str(plain.dtype), zlib.crc32(plain.tobytes())


@dataclass(frozen=True, slots=True)
class KeptArray:
    """What an array was; one that lies in a file, or that nobody can write to, is left alone."""

    array: Any
    plain: Any
    value: Any

    @classmethod
    def of(cls, array: Any) -> KeptArray | None:
        """Note what an array is, None for one that is left alone."""
        numpy: Any = sys.modules["numpy"]
        if isinstance(array, numpy.memmap) or not array.flags.writeable:
            return None
        plain = _plain(array)
        return cls(array, plain, plain.copy())

    def put_back(self) -> None:
        """Give the array its numbers again, in the shape that it had."""
        numpy: Any = sys.modules["numpy"]
        plain = _plain(self.array)
        if plain.shape != self.value.shape:
            if plain.size == self.value.size:
                self.array.shape = self.value.shape
            else:
                numpy.ndarray.resize(self.array, self.value.shape, refcheck=False)
            plain = _plain(self.array)
        if not plain.flags.writeable:
            numpy.ndarray.setflags(self.array, write=True)
            plain = _plain(self.array)
        plain[...] = self.value


def _plain(array: Any) -> Any:
    """The array without what a class of its own adds to it."""
    numpy: Any = sys.modules["numpy"]
    return numpy.ndarray.view(array, numpy.ndarray)

"""Random tensors as they are typed, drawn and written: 8x3x32x32, input_ids=int64[4,16]<1000."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytest_gradhealth.errors import SettingError
from pytest_gradhealth.formatting import meant_by, quoted, shown, told
from pytest_gradhealth.isolation.random_state import restore_random_state, seed_everything

#: The random numbers that every batch is drawn with, here and in the test that is written.
SEED = 0
_CPU = torch.device("cpu")
#: Elements of a tensor that are drawn at most: 4 GiB of them.
_MOST = 2**30
_DTYPES = (
    *("float16", "float32", "float64", "bfloat16", "complex64", "bool"),
    *("uint8", "int8", "int16", "int32", "int64"),
)
_ALSO = {
    "float": "float32",
    "double": "float64",
    "half": "float16",
    "int": "int64",
    "long": "int64",
}
_TENSOR = re.compile(
    r"(?:(?P<name>[^\W\d]\w*)\s*=\s*)?"
    r"(?:(?P<dtype>[^\W\d]\w*)\s*)?"
    r"(?P<shape>\[[\d,\s]*\]|\d+(?:x\d+)*)"
    r"(?:\s*>\s*(?P<above>\d+))?(?:\s*<\s*(?P<below>\d+))?"
)
EXAMPLES = "8x3x32x32, 'input_ids=int64[4,16]<1000', or module:batch"


@dataclass(frozen=True)
class Drawn:
    """A random tensor: its shape, the type of its numbers, and from `low` to `below` whole ones.

    `name` is the keyword that it is passed by, "" where it goes by its place.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    below: int = 2
    name: str = ""
    low: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether its numbers are whole ones."""
        return "int" in self.dtype

    def draw(self) -> Tensor:
        """Draw it, with the random numbers as they are."""
        dtype = getattr(torch, self.dtype)
        if self.dtype == "bool" or self.is_whole:
            drawn = torch.randint(*self._range, self.shape)
        else:
            drawn = torch.randn(self.shape)
        return drawn if drawn.dtype == dtype else drawn.to(dtype)

    @property
    def code(self) -> str:
        """What draws the same with torch."""
        if self.dtype == "bool" or self.is_whole:
            sizes = f"({self.shape[0]},)" if len(self.shape) == 1 else str(self.shape)
            ends = ", ".join(map(str, self._range[self.low == 0 :]))
            drawn = f"torch.randint({ends}, {sizes})"
        else:
            drawn = f"torch.randn({', '.join(map(str, self.shape)) or '()'})"
        plain = self.dtype in ("float32", "int64")
        return drawn if plain else f"{drawn}.to(torch.{self.dtype})"

    @property
    def _range(self) -> tuple[int, int]:
        return (0, 2) if self.dtype == "bool" else (self.low, self.below)

    def __str__(self) -> str:
        """As it is typed."""
        if self.dtype == "float32" and self.shape:
            said = "x".join(map(str, self.shape))
        else:
            said = f"{self.dtype}[{','.join(map(str, self.shape))}]"
        said += f">{self.low - 1}" * bool(self.low) + f"<{self.below}" * self.is_whole
        return f"{self.name}={said}" if self.name else said


@dataclass(frozen=True)
class Batch:
    """Inputs of a model: several tensors, by keyword where they have names."""

    tensors: tuple[Drawn, ...]

    def draw(self) -> Any:
        """The inputs as a probe takes them: one tensor, a tuple, or a mapping of keywords."""
        drawn = [tensor.draw() for tensor in self.tensors]
        if self.tensors[0].name:
            return {t.name: value for t, value in zip(self.tensors, drawn, strict=True)}
        return drawn[0] if len(drawn) == 1 else tuple(drawn)

    @property
    def code(self) -> str:
        """What draws the same with torch."""
        codes = [tensor.code for tensor in self.tensors]
        if self.tensors[0].name:
            rows = zip(self.tensors, codes, strict=True)
            return "{" + ", ".join(f"{quoted(t.name)}: {code}" for t, code in rows) + "}"
        return codes[0] if len(codes) == 1 else f"({', '.join(codes)})"

    def __str__(self) -> str:
        """As it is typed."""
        return ",".join(map(str, self.tensors))


def parse_batch(texts: Sequence[str], where: str) -> Batch:
    """Read tensors as they are typed; raises SettingError that names where they were.

    >>> print(parse_batch(["input_ids=int64[4,16]<1000,mask=bool[4,16]"], "").code)
    {"input_ids": torch.randint(1000, (4, 16)), "mask": torch.randint(2, (4, 16)).to(torch.bool)}
    """
    parts = [part.strip() for text in texts for part in re.split(r",(?![^\[]*\])", text)]
    drawn = tuple(_tensor(part, where) for part in parts)
    names = [tensor.name for tensor in drawn]
    if len({*map(bool, names)}) > 1 or (all(names) and len({*names}) < len(names)):
        raise SettingError(f"{where}: give each tensor a name of its own, or none of them one")
    return Batch(drawn)


def _tensor(text: str, where: str) -> Drawn:
    found = _TENSOR.fullmatch(text)
    if found is None:
        raise SettingError(f"{where}: {shown(text)} is no tensor; write {EXAMPLES}")
    dtype = found["dtype"] or "float32"
    dtype = _ALSO.get(dtype, dtype)
    if dtype not in _DTYPES:
        meant = meant_by(dtype, _DTYPES)
        raise SettingError(
            f"{where}: there is no type {dtype} of numbers; {meant or ', '.join(_DTYPES)}"
        )
    shape = tuple(map(int, re.findall(r"\d+", found["shape"])))
    low, below = int(found["above"] or -1) + 1, int(found["below"] or 2)
    if 0 in shape or not low < below < 2**63 or math.prod(shape) > _MOST:
        raise SettingError(f"{where}: {shown(text)} is empty, or larger than can be drawn")
    tensor = Drawn(shape, dtype, below, found["name"] or "", low)
    if (found["below"] or found["above"]) and not tensor.is_whole:
        raise SettingError(
            f"{where}: {shown(text)} are no whole numbers, which alone have a limit: int64[4,16]<10"
        )
    return tensor


def drawn(batch: Batch, targets: Drawn | None = None) -> tuple[Any, Any]:
    """Draw a batch and what its outputs are to be, the same each time, and no others' numbers."""
    put_back = restore_random_state(_CPU)
    try:
        seed_everything(SEED, _CPU)
        inputs = batch.draw()
        return inputs, None if targets is None else targets.draw()
    except RuntimeError as error:
        raise SettingError(f"the batch {batch} cannot be drawn ({told(error)})") from error
    finally:
        put_back()

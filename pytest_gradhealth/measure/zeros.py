"""Which operations made the zeros of a tensor, as far as these are the same for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from pytest_gradhealth.measure.operation import Operation, numbers_of
from pytest_gradhealth.tensors.storage import address_of

#: Operations that only copy, and so have the zeros of what they get.
_COPIES = frozenset({"clone", "gather", "index", "index_select", "masked_select", "take"})
#: Operations whose zeros are told of where they come of zeros: a mask, an empty sum, a zero vector.
#: Those of all others are where they come of other numbers, as by rounding.
_OF_ZEROS = frozenset({"mul", "add", "sum", "linalg_vector_norm"}) | _COPIES
#: Of these, the zeros are told by what made them before.
_UNNAMED = _COPIES | {"add"}
_SUMS = frozenset({"sum", "linalg_vector_norm", "prod"})
#: Operations that are remembered, one before the other.
_MOST = 6


class Zeros:
    """By the address of its memory, what a tensor was made by, and what made its zeros."""

    def __init__(self) -> None:
        self._trails: dict[int, tuple[str, ...]] = {}
        self._zeros: dict[int, tuple[str, ...]] = {}

    def of_last(self, args: Sequence[Any]) -> tuple[str, ...]:
        """The operations that made the zeros of the last argument, the last of them first.

        () where they differ.
        """
        last = next(reversed(numbers_of(args)), None)
        return self._zeros.get(address_of(last), ()) if isinstance(last, Tensor) else ()

    def note(self, operation: Operation, out: Tensor) -> None:
        """Keep what an operation has returned."""
        op, address = operation.name, address_of(out)
        given = [*map(address_of, operation.given)]
        trail = next(filter(None, (self._trails.get(a) for a in given)), ())
        zeros = next(filter(None, (self._zeros.get(a) for a in given)), ())
        self._trails[address] = (op, *trail)[:_MOST]
        own = () if op in _UNNAMED else (op,)
        known = (*own, *(zeros if op in _OF_ZEROS else trail))[:_MOST]
        self._zeros[address] = known if _makes_zeros(operation, out) else ()


def _makes_zeros(operation: Operation, out: Tensor) -> bool:
    """Whether all zeros that an operation returns are its own making, and there are any."""
    op = operation.name
    with suppress(RuntimeError, TypeError):  # of kinds of tensors that do not compare
        zero = out == 0
        if not bool(zero.any()):
            return False
        if op in ("std", "var") or op in _COPIES:
            return True
        given = _come_of_zeros(operation, out)
        return given is not None and bool((given[zero] == (op in _OF_ZEROS)).all())
    return False


def _come_of_zeros(operation: Operation, out: Tensor) -> Tensor | None:
    """Where results are made of a zero or an infinity, None for an operation that cannot tell."""
    if operation.name in _SUMS and not operation.writes:
        first, *rest = operation.args
        marks: Tensor = operation.func((first != 0).to(out.dtype), *rest, **operation.named)
        return marks == 0
    if operation.name == "softmax":
        return torch.isinf(operation.args[0])
    if not operation.goes_by_elements:
        return None
    return torch.stack([(part == 0) | part.isinf() for part in operation.parts(out)]).any(0)

"""Which operation made the zeros of a tensor, as far as that is the same for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

#: Operations that only copy, and so have the zeros of what they get.
_COPIES = frozenset({"clone", "gather", "index", "index_select", "masked_select", "take"})
#: Operations whose zeros are told of where they come of zeros: a mask, an empty sum, a zero vector.
#: Those of all others are where they come of other numbers, as by rounding.
OF_ZEROS = frozenset({"mul", "add", "sum", "linalg_vector_norm"}) | _COPIES
#: Of these, the zeros are told by what made them before.
UNNAMED = _COPIES | {"add"}
_SUMS = frozenset({"sum", "linalg_vector_norm", "prod"})


def makes_zeros(func: Any, op: str, args: Sequence[Any], kwargs: Any, out: Tensor) -> bool:
    """Whether all zeros that an operation returns are its own making, and there are any."""
    with suppress(RuntimeError, TypeError):  # of kinds of tensors that do not compare
        zero = out == 0
        if not bool(zero.any()):
            return False
        if op in ("std", "var") or op in _COPIES:
            return True
        given = _come_of_zeros(func, op, args, kwargs, out)
        return given is not None and bool((given[zero] == (op in OF_ZEROS)).all())
    return False


def spread_out(args: Sequence[Any], out: Tensor) -> list[Tensor]:
    """The numbers that an operation by elements makes each of its results of."""
    return [
        torch.as_tensor(arg, dtype=torch.float64, device=out.device).expand(out.shape)
        for arg in args
        if isinstance(arg, (Tensor, int, float)) and not isinstance(arg, bool)
    ]


def _come_of_zeros(
    func: Any, op: str, args: Sequence[Any], kwargs: Any, out: Tensor
) -> Tensor | None:
    """Where results are made of a zero or an infinity, None for an operation that cannot tell."""
    if op in _SUMS:
        marks: Tensor = func((args[0] != 0).to(out.dtype), *args[1:], **kwargs)
        return marks == 0
    if op == "softmax":
        return torch.isinf(args[0])
    if torch.Tag.pointwise not in func.tags:
        return None
    return torch.stack([(part == 0) | part.isinf() for part in spread_out(args, out)]).any(0)

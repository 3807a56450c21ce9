"""One operation of torch as it runs: what it is called, and what it makes its results of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytest_gradhealth.tensors.norms import kind_of, worst_kind
from pytest_gradhealth.tensors.trees import tensors

#: The same operation under other names.
_SAME = {
    "native_batch_norm": "batch_norm",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "cudnn_batch_norm": "batch_norm",
    "cudnn_ctc_loss": "ctc_loss",
    "nll_loss_forward": "nll_loss",
    "nll_loss2d_forward": "nll_loss",
    "linalg_slogdet": "slogdet",
    "to_copy": "to",
}
#: Operations that put a number in, or fill a tensor with one.
_FILLS: tuple[str, ...] = ("where", "masked_fill", "index_put", "fill")
_FILLS += ("full", "full_like", "new_full", "constant_pad_nd")


@dataclass(frozen=True)
class Operation:
    """An operation with its arguments, as they were before; `given` are the tensors among them.

    `kinds` say for each of these what is wrong with its numbers, `behind` what had made the zeros
    of the last argument.
    """

    func: Any
    args: Sequence[Any]
    named: Mapping[str, Any]
    given: Sequence[Tensor]
    kinds: Sequence[str]
    behind: tuple[str, ...] = ()

    @property
    def writes(self) -> bool:
        """Whether it writes to what it gets."""
        return bool(self.func._schema.is_mutable)

    @property
    def name(self) -> str:
        """What it is called where it is typed: "softmax" for aten::_softmax."""
        name: str = self.func._schema.name.rpartition("::")[2].strip("_")
        if name.startswith("scaled_dot_product"):
            return "scaled_dot_product_attention"
        return _SAME.get(name, name)

    @property
    def taken(self) -> str:
        """The kind of the worst that it got, tensor or number, but for a NaN that it puts in."""
        numbers = [_wide(a) for a in numbers_of(self.args) if not isinstance(a, Tensor)]
        kinds = (*self.kinds, *map(kind_of, numbers))
        pairs = zip((*self.given, *numbers), kinds, strict=True)
        fills = self.name in _FILLS  # some of which get the number as a tensor
        return worst_kind(
            kind for t, kind in pairs if not (fills and kind == "nan" and not t.dim())
        )

    @property
    def goes_by_elements(self) -> bool:
        """Whether each of its results is made of one number of each argument."""
        return torch.Tag.pointwise in self.func.tags

    def parts(self, out: Tensor) -> list[Tensor]:
        """The numbers that it makes each of its results of, argument by argument."""
        return [_wide(a, out.device).expand(out.shape) for a in numbers_of(self.args)]

    def fed(self, out: Tensor) -> tuple[float, ...]:
        """The numbers that it made the first bad one of, () if it does not go by elements."""
        if not self.goes_by_elements or out.is_complex():
            return ()
        with suppress(RuntimeError, TypeError):  # of shapes or kinds of tensors that do not spread
            parts = self.parts(out)
            bad = out.isnan() if bool(out.isnan().any()) else out.isinf()
            fresh = bad & torch.stack([part.isfinite() for part in parts]).all(0)
            place = (fresh if bool(fresh.any()) else bad).flatten().nonzero()[0, 0]
            return tuple(float(part.flatten()[place]) for part in parts)
        return ()

    def elements(self, out: Tensor) -> int | None:
        """How many elements of its first tensor it takes for one."""
        first = next(tensors(self.args), None)
        if first is None or first.is_nested or out.is_nested or not out.numel():
            return None
        return first.numel() // out.numel() if out.numel() <= max(first.numel(), 1) else None


def numbers_of(args: Sequence[Any]) -> list[Any]:
    """The arguments that are tensors or numbers."""
    kinds = (Tensor, int, float)
    return [arg for arg in args if isinstance(arg, kinds) and not isinstance(arg, bool)]


def _wide(number: Any, device: torch.device | str = "cpu") -> Tensor:
    """A tensor or a number in a format that loses nothing of it."""
    return torch.as_tensor(number, dtype=torch.float64, device=device)

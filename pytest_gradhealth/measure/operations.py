"""Which operation of a forward made the first NaN or infinity, and of what numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pytest_gradhealth.measure.zeros import OF_ZEROS, UNNAMED, makes_zeros, spread_out
from pytest_gradhealth.results.non_finite import NonFinite
from pytest_gradhealth.tensors.dispatch import DispatchMode
from pytest_gradhealth.tensors.norms import kind_of, worst_kind
from pytest_gradhealth.tensors.storage import address_of
from pytest_gradhealth.tensors.trees import tensors
from pytest_gradhealth.tensors.unwrap import dtype_name

During = Literal["forward", "loss", "backward"]

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
#: Operations that are remembered before another.
_TRAIL = 6


@dataclass(frozen=True, slots=True)
class Made:
    """What an operation returned that is NaN or infinite, in the order of the forward.

    `sources` are the operations that had returned what it got.
    """

    number: int
    found: NonFinite
    sources: tuple[Made, ...]


class Operations(DispatchMode):
    """Notes every operation that returns NaN or infinity, and what `owner()` was running."""

    def __init__(self, owner: Callable[[], tuple[During, str, str]]) -> None:
        super().__init__()
        self._owner = owner
        self._number = 0
        # By address. Whoever gets memory that was given back writes an entry of its own.
        self._made: dict[int, Made] = {}
        self._trails: dict[int, tuple[str, ...]] = {}
        self._zeros: dict[int, tuple[str, ...]] = {}

    def made(self, tensor: Tensor) -> bool:
        """Whether an operation that was seen returned what is wrong with a tensor."""
        return address_of(tensor) in self._made

    def origin(self, tensor: Tensor) -> NonFinite | None:
        """The first operation that what is wrong with a tensor came from, None if it was given."""
        last = self._made.get(address_of(tensor))
        if last is None:
            return None
        behind = {made.number: made.found for made in _with_sources(last)}
        ordered = [behind[number] for number in sorted(behind)]
        begun = [found for found in ordered if not found.taken]
        mixed = [found for found in ordered if found.value == "nan" != found.taken]
        filled = [found for found in ordered if found.taken != "nan"]
        return (*begun, *mixed, *filled, None)[0]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [*tensors((args, kwargs))]
        kinds = [*map(kind_of, given)]
        before = args
        if func._schema.is_mutable:
            before = tuple(a.clone() if isinstance(a, Tensor) else a for a in args)
        made = func(*args, **kwargs)
        known = {address_of(tensor) for tensor in given}
        for out in tensors(made):
            address = address_of(out)
            if func._schema.is_mutable or address not in known:
                self._remember(func, before, kwargs, given, out)
                self._note(func, before, given, kinds, out, address)
        return made

    def _remember(
        self, func: Any, args: Sequence[Any], kwargs: Any, given: Sequence[Tensor], out: Tensor
    ) -> None:
        """What a tensor was made by, and its zeros."""
        op, address, addresses = _name(func), address_of(out), [*map(address_of, given)]
        trail = next(filter(None, (self._trails.get(a, ()) for a in addresses)), ())
        zeros = next(filter(None, (self._zeros.get(a, ()) for a in addresses)), ())
        made = makes_zeros(func, op, args, kwargs, out)
        before = zeros if op in OF_ZEROS else trail
        self._trails[address] = (op, *trail)[:_TRAIL]
        named = () if op in UNNAMED else (op,)
        self._zeros[address] = (*named, *before)[:_TRAIL] if made else ()

    def _note(
        self,
        func: Any,
        args: Sequence[Any],
        given: Sequence[Tensor],
        kinds: Sequence[str],
        out: Tensor,
        address: int,
    ) -> None:
        op, value = _name(func), kind_of(out)
        if not value or op.startswith(("empty", "new_empty")):
            if not func._schema.is_mutable:
                self._made.pop(address, None)
            return
        sources = [
            self._made[address_of(tensor)]
            for tensor, kind in zip(given, kinds, strict=True)
            if kind and address_of(tensor) in self._made
        ]
        scalars = [_kind_of_number(a) for a in args if isinstance(a, (int, float))]
        taken = worst_kind((*kinds, *scalars))
        fed = _fed(func, args, out)
        zeros = [
            self._zeros.get(a, ())
            for a, x in zip(map(address_of, given), fed, strict=False)
            if x == 0
        ]
        during, name, kind = self._owner()
        found = NonFinite(
            during,
            name,
            kind,
            value,
            op=op,
            taken=taken,
            fed=fed,
            elements=_elements(args, out),
            format=dtype_name(out.dtype),
            behind=zeros[-1] if zeros else self._trails[address][1:],
        )
        self._number += 1
        self._made[address] = Made(self._number, found, tuple(sources))


def _with_sources(made: Made) -> Iterator[Made]:
    """An operation and all that its numbers came from."""
    seen, stack = {made.number}, [made]
    while stack:
        current = stack.pop()
        yield current
        fresh = [source for source in current.sources if source.number not in seen]
        seen.update(source.number for source in fresh)
        stack += fresh


def _name(func: Any) -> str:
    """What an operation is called where it is typed: "softmax" for aten::_softmax."""
    name: str = func._schema.name.rpartition("::")[2].strip("_")
    if name.startswith("scaled_dot_product"):
        return "scaled_dot_product_attention"
    return _SAME.get(name, name)


def _kind_of_number(number: float) -> str:
    if math.isfinite(number):
        return ""
    return "nan" if math.isnan(number) else "inf" if number > 0 else "-inf"


def _fed(func: Any, args: Sequence[Any], out: Tensor) -> tuple[float, ...]:
    """The numbers that an operation by elements made the first bad one of, () for any other."""
    if torch.Tag.pointwise not in func.tags or out.is_complex():
        return ()
    with suppress(RuntimeError, TypeError):  # of shapes or kinds of tensors that do not spread
        parts = spread_out(args, out)
        bad = out.isnan() if bool(out.isnan().any()) else out.isinf()
        fresh = bad & torch.stack([part.isfinite() for part in parts]).all(0)
        place = (fresh if bool(fresh.any()) else bad).flatten().nonzero()[0, 0]
        return tuple(float(part.flatten()[place]) for part in parts)
    return ()


def _elements(args: Sequence[Any], out: Tensor) -> int | None:
    """How many elements of its first tensor an operation takes for one."""
    first = next(tensors(args), None)
    if first is None or first.is_nested or out.is_nested or not out.numel():
        return None
    return first.numel() // out.numel() if out.numel() <= max(first.numel(), 1) else None

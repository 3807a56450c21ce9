"""What is reachable from values, noted before a probe and put back after it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.formatting import told
from pytest_gradhealth.isolation.arrays import KeptArray
from pytest_gradhealth.isolation.kept_tensor import KeptTensor, forget, put_back
from pytest_gradhealth.isolation.lazy_copy import ask_to_write
from pytest_gradhealth.isolation.places import CONTAINERS, Items, Kind
from pytest_gradhealth.isolation.reachable import Reachable
from pytest_gradhealth.isolation.write_guard import WriteGuard, unguarded


def held_tensors(values: Iterable[Any]) -> list[Tensor]:
    """The tensors behind some values: parameters, buffers, those in attributes and containers."""
    return Reachable(values, written=True).tensors


def restore(
    values: Iterable[Any], guard: WriteGuard, besides: Collection[int] = ()
) -> Callable[[], None]:
    """Note what is reachable from some values; return what puts it back.

    Tensors whose ids are `besides` are left alone.
    """
    values = list(values)
    reachable = Reachable(values, written=True)
    found = [t for t in reachable.tensors if id(t) not in besides and not is_lazy(t)]
    asking = ask_to_write(owner for owner, _, _ in reachable.places)
    kept: list[KeptTensor] = []
    try:
        kept += (KeptTensor.of(t, guard, lazily=id(t) not in asking) for t in found)
        arrays = [KeptArray.of(array) for array in reachable.arrays]
    except (RuntimeError, MemoryError) as error:
        forget(kept)
        raise ProbeError(
            f"what model, loss and batch hold cannot be kept ({told(error)});"
            " probe a smaller model of the same kind, or one that holds less"
        ) from error
    for one in kept:
        one.empty_gradient()

    def undo() -> None:
        with unguarded():
            faults = list(_undone(reachable, filter(None, arrays)))
            try:
                missed = put_back(kept, guard)
            finally:
                forget(kept)
        if missed:
            raise ProbeError(
                f"{_name_of(missed[0], values)} was written to during the probe in a way that"
                " cannot be seen before it happens, and stays changed; pass copy=True to have large"
                " parameters copied before, or probe a copy of the model: copy.deepcopy(model)"
            )
        if faults:
            raise ProbeError(
                "something that the probe has changed cannot be put back"
                f" ({told(faults[0])}); probe copies of what model, loss and"
                " batch hold"
            ) from faults[0]

    return undo


def _undone(reachable: Reachable, arrays: Iterable[KeptArray]) -> Iterator[Exception]:
    """Put back what has changed; yields what cannot be, and goes on with the rest."""
    changed = [place for place in reachable.places if _has_changed(*place)]
    changed += [(owner, CONTAINERS[type(owner)], ()) for owner in reachable.empty if owner]
    for owner, kind, items in changed:
        if kind.put_back is not None and id(owner) not in reachable.lent:
            yield from _errors_of(kind.put_back, owner, items)
    for array in arrays:
        yield from _errors_of(array.put_back)


def _errors_of(run: Callable[..., object], *arguments: Any) -> Iterator[Exception]:
    try:
        run(*arguments)
    except Exception as error:
        yield error


def _name_of(tensor: Tensor, values: Iterable[Any]) -> str:
    """A parameter as its module knows it."""
    modules = [value for value in values if isinstance(value, nn.Module)]
    named = (pair for module in modules for pair in module.named_parameters())
    shape = f"of shape {tuple(tensor.shape)}"
    return next((f"{n} {shape}" for n, p in named if p is tensor), f"a parameter {shape}")


def _has_changed(owner: Any, kind: Kind, items: Items) -> bool:
    """Whether a place holds other values than it did; states are always written anew."""
    if kind.put_back is None or kind.state:
        return kind.state
    now = kind.read(owner)
    return len(now) != len(items) or not all(map(operator.is_, now, items))

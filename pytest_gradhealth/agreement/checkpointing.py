"""Blocks that are computed once more on the way back, from what they were called with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pytest_gradhealth.isolation.reachable import Reachable


def checkpointed(model: nn.Module) -> None:
    """Have the blocks of a model keep nothing of a forward but what goes in."""
    for block in _blocks(model):
        block.forward = partial(_checkpointed, block, block.forward)


def _checkpointed(block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    # Arguments that it was passed, a checkpoint would not have overwritten.
    return checkpoint(_Twice(block, forward, args, kwargs), use_reentrant=False)


class _Twice:
    """Calls the forward of a block, and once more as if it had not been called.

    The first call may add to what it gets (a cache of keys and values), overwrite a tensor that
    comes in, and leave a state in the block; the second gets a copy of the first as it was, the
    same numbers, and the state of before.
    """

    def __init__(
        self, block: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any
    ) -> None:
        self._forward = forward
        self._state = [*_states(block)]
        self._first: tuple[Any, Any] | None = (args, kwargs)
        self._before = _each(_kept, *_as_they_are((args, kwargs)))

    def __call__(self) -> Any:
        if self._first is not None:
            args, kwargs = _each(_lent, *self._first)
            self._first = None
            return self._forward(*args, **kwargs)
        after = [(held, {**held}) for held, _ in self._state]
        args, kwargs = _each(Tensor.clone, *self._before)
        try:
            _put_in(self._state)
            return self._forward(*args, **kwargs)
        finally:
            _put_in(after)


def _states(block: nn.Module) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """What the modules of a block hold, and a copy of that: attributes and buffers."""
    for module in block.modules():
        for held in (vars(module), vars(module)["_buffers"]):
            yield held, {**held}


def _put_in(states: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    for held, state in states:
        held.clear()
        held.update(state)


def _each(change: Callable[[Tensor], Tensor], args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Arguments whose tensors are changed; those in a container stay, which may be added to."""

    def changed(value: Any) -> Any:
        return change(value) if isinstance(value, Tensor) else value

    return tuple(map(changed, args)), {name: changed(value) for name, value in kwargs.items()}


def _kept(tensor: Tensor) -> Tensor:
    """What the second call is to find; a tensor in the graph is `_lent` to the first."""
    return tensor if tensor.requires_grad else tensor.clone()


def _lent(tensor: Tensor) -> Tensor:
    """What the first call may overwrite, which is seen outside unless it is in the graph."""
    return tensor.clone() if tensor.requires_grad else tensor


def _as_they_are(values: Any) -> Any:
    """A copy of values with the same tensors and modules; themselves, if they cannot be copied."""
    known = {id(t): t for t in Reachable([values], written=True, code=False).tensors}
    try:
        return copy.deepcopy(values, known)
    except Exception:
        return values


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost lists of modules; the model itself where there are none."""
    lists = (nn.ModuleList, nn.Sequential)
    found = list(_outermost(model, lists))
    yield from (block for one in found for block in one.children()) if found else iter([model])


def _outermost(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterator[nn.Module]:
    if isinstance(module, kinds):
        yield module
        return
    for child in module.children():
        yield from _outermost(child, kinds)

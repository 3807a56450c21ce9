"""Functions that hold on to a model, made those of its copy: Python copies no function."""

from __future__ import annotations

import functools
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.isolation.code import holds
from pytest_gradhealth.isolation.places import CONTAINERS, OTHERS, Items
from pytest_gradhealth.isolation.reachable import Reachable
from pytest_gradhealth.tensors.modules import class_name

#: What is called or followed, and copied by nobody. Tuples may have some in them.
_SHARED = (
    *(types.FunctionType, types.MethodType, types.BuiltinFunctionType),
    *(functools.partial, weakref.ref, tuple),
)
#: How what holds something is looked into; objects of other classes are none of ours.
_HELD: dict[type, Callable[[Any], Items]] = {
    types.FunctionType: holds,
    **{kind: place.read for kind, place in CONTAINERS.items()},
    **{kind: OTHERS[kind][0].read for kind in (types.CellType, *_SHARED) if kind in OTHERS},
}
#: Where torch.compile keeps the function that it was given.
_COMPILED = "_torchdynamo_orig_callable"


class Twins:
    """What values are on a copy, from what `copy.deepcopy` has noted: ids and copies.

    A closure over the model, its method, a partial application, a weak reference or a container of
    such becomes one of the copy; what holds nothing of the model is shared.
    """

    def __init__(self, memo: MutableMapping[int, Any]) -> None:
        self._memo = memo

    def rebind(self, roots: Iterable[Any]) -> None:
        """Have whatever a copy holds be its own: hooks, compiled methods, functions."""
        for owner, kind, items in Reachable(roots, written=True, code=False).places:
            if kind.put_back is None or kind.state:
                continue
            own = tuple(self.of(item) if type(item) in _SHARED else item for item in items)
            if any(one is not other for one, other in zip(own, items, strict=True)):
                kind.put_back(owner, own)

    def of(self, value: Any) -> Any:
        """The value as it is on the copy: itself, if it leads to nothing that was copied."""
        if id(value) in self._memo:
            return self._memo[id(value)]
        make = _MAKE.get(type(value))
        if make is None or not self._leads(value):
            return value
        twin = make(self, value)
        return self._memo.setdefault(id(value), twin)

    def cell(self, cell: types.CellType) -> types.CellType:
        """A cell of a closure, which may lead back to the function that has it."""
        twin = self._memo[id(cell)] = types.CellType()
        twin.cell_contents = self.of(cell.cell_contents)
        return twin

    def _leads(self, value: Any) -> bool:
        waiting, seen = [value], set[int]()
        while waiting:
            one = waiting.pop()
            if id(one) in self._memo:
                return True
            read = _HELD.get(type(one))
            if read is not None and id(one) not in seen:
                seen.add(id(one))
                waiting += read(one)
        return False


def _function(twins: Twins, function: types.FunctionType) -> Any:
    if _COMPILED in vars(function):
        return twins.of(vars(function)[_COMPILED])
    code, defaults, keywords, closure, attributes = map(twins.of, holds(function))
    twin = types.FunctionType(code, function.__globals__, function.__name__, defaults, closure)
    twin.__kwdefaults__, twin.__qualname__ = keywords, function.__qualname__
    vars(twin).update(attributes)
    return twin


def _partial(twins: Twins, partial: functools.partial[Any]) -> Any:
    args, keywords = twins.of(partial.args), twins.of(partial.keywords)
    return functools.partial(twins.of(partial.func), *args, **keywords)


def _method_of_c(twins: Twins, method: types.BuiltinFunctionType) -> Any:
    return getattr(twins.of(method.__self__), method.__name__)


def _mapping(twins: Twins, mapping: dict[Any, Any]) -> Any:
    return type(mapping)((key, twins.of(value)) for key, value in mapping.items())


def _collection(twins: Twins, values: Any) -> Any:
    return type(values)(map(twins.of, values))


_MAKE: dict[type, Callable[[Twins, Any], Any]] = {
    types.FunctionType: _function,
    types.CellType: Twins.cell,
    types.MethodType: lambda twins, m: types.MethodType(twins.of(m.__func__), twins.of(m.__self__)),
    types.BuiltinFunctionType: _method_of_c,
    functools.partial: _partial,
    weakref.ref: lambda twins, ref: weakref.ref(twins.of(ref())),
    **dict.fromkeys((dict, OrderedDict), _mapping),
    **dict.fromkeys((tuple, list, set, frozenset), _collection),
}


@contextmanager
def explained(original: nn.Module, twin: nn.Module) -> Iterator[None]:
    """Have an error name a function by which the copy still leads to the original."""
    try:
        yield
    except ProbeError as error:
        found = None if twin is original else _holder(original, twin)
        if found is None:
            raise
        place = f"{found.__code__.co_filename}:{found.__code__.co_firstlineno}"
        raise ProbeError(
            f"{error}\n  that was a copy of {class_name(original)}, which is trained to confirm a"
            f" verdict: it holds {found.__qualname__} ({place}), which leads to the original; have"
            " that use what it is called with, or pass confirm_steps=0 to judge the first look"
            " alone"
        ) from error.__cause__


def _holder(original: nn.Module, twin: nn.Module) -> types.FunctionType | None:
    theirs = {id(module) for module in original.modules()}
    places = Reachable([twin], written=True, code=False).places
    for function in (item for _, _, items in places for item in items):
        if isinstance(function, types.FunctionType):
            behind = Reachable([function], written=True).order
            if not theirs.isdisjoint(behind):
                return function
    return None

"""Where a value keeps what it knows: each kind of place is read in one way and put back in one."""

from __future__ import annotations

import functools
import random
import sys
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

Items: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """How places of one kind are read, as what is in them, and how that is put back.

    `put_back` is None for what cannot change, or is the program's: names of modules and classes,
    which `lend` what they hold. What is `opened` is looked into in turn; a `state` is a value of
    its own, read anew each time. Neither runs code of the value's own.
    """

    read: Callable[[Any], Items]
    put_back: Callable[[Any, Items], object] | None = None
    opened: bool = True
    state: bool = False
    lends: bool = False


def _state(
    read: Callable[[Any], Any], put_back: Callable[[Any, Any], object] | None = None
) -> Kind:
    """A place that holds one value of its own."""
    written = None if put_back is None else lambda owner, items: put_back(owner, items[0])
    return Kind(lambda owner: (read(owner),), written, opened=False, state=True)


def _mapping(base: Any) -> Kind:
    def write(owner: Any, items: Items) -> None:
        base.clear(owner)
        half = len(items) // 2
        for key, value in zip(items[:half], items[half:], strict=True):
            base.__setitem__(owner, key, value)

    return Kind(lambda owner: (*base.keys(owner), *base.values(owner)), write)


def _sequence(base: Any) -> Kind:
    def write(owner: Any, items: Items) -> None:
        base.clear(owner)
        base.extend(owner, items)

    return Kind(lambda owner: tuple(base.__iter__(owner)), write)


def _write_set(owner: set[Any], items: Items) -> None:
    set.clear(owner)
    set.update(owner, items)


def _in_order(owner: Any) -> Items:
    """What is in a set, in an order that is the same as long as the set is."""
    return tuple(sorted(frozenset.union(frozenset(), owner), key=_place))


def _place(value: Any) -> tuple[str, str]:
    plain = type(value) in (str, int, float, bytes)
    return type(value).__name__, repr(value) if plain else str(id(value))


#: The containers of Python, most special first.
CONTAINERS: dict[type, Kind] = {
    OrderedDict: _mapping(OrderedDict),
    dict: _mapping(dict),
    list: _sequence(list),
    deque: _sequence(deque),
    set: Kind(_in_order, _write_set),
    tuple: Kind(lambda owner: tuple(tuple.__iter__(owner))),
    frozenset: Kind(_in_order),
    types.MappingProxyType: Kind(lambda owner: (*owner.keys(), *owner.values())),
}


FACTORY = Kind(lambda owner: (owner.default_factory,))
ATTRIBUTES = Kind(
    lambda owner: (object.__getattribute__(owner, "__dict__"),),
    lambda owner, items: object.__setattr__(owner, "__dict__", items[0]),
)

#: In place of what is not there.
_NOTHING = object()


def slots(kind: type) -> Kind | None:
    """The slots of a class and of those that it is made from, None if there are none."""
    members = [
        member
        for base in kind.__mro__
        if "__slots__" in vars(base)  # classes of C have members of their own
        for name, member in vars(base).items()
        if isinstance(member, types.MemberDescriptorType) and not name.startswith("__")
    ]

    def read(owner: Any) -> Items:
        return tuple(_slot(member, owner) for member in members)

    def write(owner: Any, items: Items) -> None:
        for member, value in zip(members, items, strict=True):
            if value is not _NOTHING:
                member.__set__(owner, value)
            elif _slot(member, owner) is not _NOTHING:
                member.__delete__(owner)

    return Kind(read, write) if members else None


def _slot(member: types.MemberDescriptorType, owner: object) -> Any:
    try:
        return member.__get__(owner, type(owner))
    except AttributeError:
        return _NOTHING


def _read_cell(cell: types.CellType) -> Items:
    try:
        return (cell.cell_contents,)
    except ValueError:  # still empty
        return ()


def _write_cell(cell: types.CellType, items: Items) -> None:
    if items:
        cell.cell_contents = items[0]
    else:
        del cell.cell_contents


def _write_bytes(owner: bytearray, value: bytes) -> None:
    owner[:] = value


def _self_of(function: Any) -> Items:
    """What a method of C is bound to."""
    bound = function.__self__
    return () if isinstance(bound, types.ModuleType) else (bound,)


def _of_tensor(tensor: Tensor) -> Items:
    """The hooks of a tensor, what has been hung on it, and the one that it is a view of."""
    base = tensor._base if tensor._is_view() else None
    return tensor._backward_hooks, tensor._post_accumulate_grad_hooks, tensor.__dict__, base


#: What is neither container nor object of a class of its own.
OTHERS: dict[type, tuple[Kind, ...]] = {
    types.CellType: (Kind(_read_cell, _write_cell),),
    types.MethodType: (Kind(lambda method: (method.__func__, method.__self__)),),
    types.BuiltinFunctionType: (Kind(_self_of),),
    types.MethodWrapperType: (Kind(_self_of),),
    functools.partial: (Kind(lambda p: (p.func, p.args, p.keywords)), ATTRIBUTES),
    type(functools.cache(int)): (ATTRIBUTES,),
    staticmethod: (Kind(lambda method: (method.__func__,)),),
    classmethod: (Kind(lambda method: (method.__func__,)),),
    property: (Kind(lambda p: (p.fget, p.fset)),),
    weakref.ref: (Kind(lambda ref: (weakref.ref.__call__(ref),)),),
    Tensor: (Kind(_of_tensor),),
    bytearray: (_state(bytes, _write_bytes),),
    torch.Generator: (_state(torch.Generator.get_state, torch.Generator.set_state),),
    random.Random: (_state(random.Random.getstate, random.Random.setstate),),
}


def of_numpy(kind: type) -> Kind | None:
    """How a generator or a number of NumPy is read, None for anything else."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if issubclass(kind, numpy.random.Generator):
        return _NUMPY_GENERATOR
    if issubclass(kind, numpy.random.RandomState):
        return _NUMPY_STATE
    return _NUMPY_NUMBER if issubclass(kind, numpy.generic) else None


def _write_numpy(generator: Any, state: Any) -> None:
    generator.bit_generator.state = state


_NUMPY_GENERATOR = _state(lambda generator: generator.bit_generator.state, _write_numpy)
_NUMPY_STATE = _state(
    lambda generator: generator.get_state(legacy=False),
    lambda generator, state: generator.set_state(state),
)
_NUMPY_NUMBER = _state(repr)

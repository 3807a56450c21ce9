"""Where a value keeps what it knows: each kind of place is read in one way and put back in one."""

from __future__ import annotations

import argparse
import functools
import random
import sys
import types
import weakref
from collections import OrderedDict, UserDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
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


def _read_function(function: types.FunctionType) -> Items:
    return (
        function.__code__,
        function.__defaults__,
        function.__kwdefaults__,
        function.__closure__,
        vars(function),
    )


def _write_function(function: types.FunctionType, items: Items) -> None:
    function.__code__, function.__defaults__, function.__kwdefaults__ = items[:3]


def _read_globals(function: types.FunctionType) -> Items:
    """Names and values of the globals that a function of the caller's names."""
    if is_of_library(function.__code__.co_filename):
        return ()
    known = function.__globals__
    return tuple(p for n in _names_in(function.__code__) if n in known for p in (n, known[n]))


def _read_modules(function: types.FunctionType) -> Items:
    """Names and values of what a function of the caller's reads from modules."""
    names = _names_in(function.__code__)
    modules = [v for v in _read_globals(function)[1::2] if type(v) is types.ModuleType]
    return tuple(vars(m)[n] for m in modules for n in names if n in vars(m))


@functools.lru_cache(maxsize=4096)
def _names_in(code: types.CodeType) -> tuple[str, ...]:
    """The names of globals and attributes in a function and those inside of it."""
    inner = (_names_in(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return tuple(dict.fromkeys((*code.co_names, *(name for names in inner for name in names))))


def _read_class(kind: type) -> Items:
    """The attributes of a class of the caller's, and those that it is made from."""
    if is_of_library(_file_of(kind)):
        return ()
    return (*kind.__bases__, *(p for n, v in _own_attributes(kind) for p in (n, v)))


def _read_library_class(kind: type) -> Items:
    return tuple(vars(kind).values()) if is_of_library(_file_of(kind)) else ()


def _own_attributes(kind: type) -> Iterator[tuple[str, Any]]:
    for name, value in list(vars(kind).items()):
        if not name.startswith(("__", "_abc_")) or isinstance(value, types.FunctionType):
            yield name, value


def _self_of(function: Any) -> Items:
    """What a method of C is bound to."""
    bound = function.__self__
    return () if isinstance(bound, types.ModuleType) else (bound,)


FUNCTION = (
    Kind(_read_function, _write_function),
    Kind(_read_globals, lends=True),
    Kind(_read_modules, lends=True),
)
#: What is neither container nor object of a class of its own.
OTHERS: dict[type, tuple[Kind, ...]] = {
    types.FunctionType: FUNCTION,
    types.CellType: (Kind(_read_cell, _write_cell),),
    types.MethodType: (Kind(lambda method: (method.__func__, method.__self__)),),
    types.BuiltinFunctionType: (Kind(_self_of),),
    types.MethodWrapperType: (Kind(_self_of),),
    functools.partial: (Kind(lambda p: (p.func, p.args, p.keywords)), ATTRIBUTES),
    type(functools.cache(int)): (ATTRIBUTES,),
    staticmethod: (Kind(lambda method: (method.__func__,)),),
    classmethod: (Kind(lambda method: (method.__func__,)),),
    property: (Kind(lambda p: (p.fget, p.fset)),),
    weakref.ref: (Kind(lambda ref: (ref(),)),),
    type: (Kind(_read_class, lends=True), Kind(_read_library_class, opened=False)),
    Tensor: (Kind(lambda t: (t._backward_hooks, t._post_accumulate_grad_hooks)),),
    torch.Generator: (
        Kind(
            lambda generator: (generator.get_state(),),
            lambda generator, items: generator.set_state(items[0]),
            opened=False,
            state=True,
        ),
    ),
    random.Random: (
        Kind(
            lambda generator: (random.Random.getstate(generator),),
            lambda generator, items: random.Random.setstate(generator, items[0]),
            opened=False,
            state=True,
        ),
    ),
}


def of_numpy(kind: type) -> Kind | None:
    """How a generator, an array or a number of NumPy is read, None for anything else."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if issubclass(kind, numpy.random.Generator):
        return _NUMPY_GENERATOR
    if issubclass(kind, numpy.random.RandomState):
        return _NUMPY_STATE
    if issubclass(kind, numpy.ndarray):
        return _ARRAY
    return _NUMPY_NUMBER if issubclass(kind, numpy.generic) else None


def _write_numpy(generator: Any, items: Items) -> None:
    generator.bit_generator.state = items[0]


def _write_array(array: Any, items: Items) -> None:
    if array.flags.writeable:
        array[...] = items[0]


_NUMPY_GENERATOR = Kind(lambda g: (g.bit_generator.state,), _write_numpy, opened=False, state=True)
_NUMPY_STATE = Kind(
    lambda state: (state.get_state(legacy=False),),
    lambda state, items: state.set_state(items[0]),
    opened=False,
    state=True,
)
_ARRAY = Kind(lambda array: (array.copy(),), _write_array, opened=False, state=True)
_NUMPY_NUMBER = Kind(lambda number: (repr(number),), opened=False, state=True)

#: Classes of Python's library whose objects are no more than their attributes.
PLAIN = (types.SimpleNamespace, argparse.Namespace, UserDict, functools.cached_property)
_STANDARD = sys.stdlib_module_names - {"__main__"}
_INSTALLED = ("site-packages", "dist-packages")
_HOMES = tuple(
    str(Path(module.__file__ or "").resolve().parent) + "/"
    for module in (sys.modules[__package__.partition(".")[0]], functools, torch)
)


@functools.lru_cache(maxsize=4096)
def is_of_library(file: str) -> bool:
    """Whether code in a file is none of the caller's own: installed, or Python's."""
    return file.startswith((*_HOMES, "<frozen")) or any(part in file for part in _INSTALLED)


def is_standard(kind: type) -> bool:
    """Whether a class is one of Python's own library."""
    return kind.__module__.partition(".")[0] in _STANDARD


def _file_of(kind: type) -> str:
    """The file that a class was written in; classes of C count as installed."""
    if is_standard(kind):
        return "<frozen>"
    module = sys.modules.get(kind.__module__)
    return (vars(module).get("__file__") if module else None) or "<unknown>"

"""Functions and classes: what they hold, what they name, and whose they are."""

from __future__ import annotations

import dis
import functools
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from pytest_gradhealth.isolation.places import Items, Kind

_STANDARD = sys.stdlib_module_names - {"__main__"}
_INSTALLED = ("site-packages", "dist-packages")
_HOMES = tuple(
    str(Path(module.__file__ or "").resolve().parent) + "/"
    for module in (sys.modules[__package__.partition(".")[0]], functools, torch)
)
#: Names in code that reads what is kept nowhere: files, and whatever else is evaluated.
_UNSEEN = frozenset({"open", "eval", "exec", "globals", "locals", "__import__"})
_UNSEEN_ATTRIBUTES = frozenset({"read_text", "read_bytes"})
#: Set for classes that were made by a program, not in C.
_HEAP = 1 << 9


@functools.lru_cache(maxsize=4096)
def is_installed(file: str) -> bool:
    """Whether code in a file was installed, or is Python's."""
    return file.startswith((*_HOMES, "<frozen")) or any(part in file for part in _INSTALLED)


def is_shown(file: str) -> bool:
    """Whether code in a file is the caller's, or of a library other than torch and Python's own."""
    package = package_of(file)
    own = __package__.partition(".")[0]
    return package not in ("torch", own) if package else not is_installed(file)


def package_of(file: str) -> str:
    """The name of the installed package that a file is of, "" for Python's own."""
    for part in _INSTALLED:
        _, found, path = file.replace("\\", "/").rpartition(part)
        if found:
            return path.strip("/").partition("/")[0].removesuffix(".py")
    return "torch" if file.startswith(_HOMES[-1]) else ""


def module_of(kind: type) -> str:
    """The name of the module of a class, which may say anything of itself."""
    found = vars(kind).get("__module__")
    if found is None and not kind.__flags__ & _HEAP:
        found = kind.__module__
    return found if isinstance(found, str) else ""


def is_standard(kind: type) -> bool:
    """Whether a class is one of Python's own library."""
    return module_of(kind).partition(".")[0] in _STANDARD


def file_of(kind: type) -> str:
    """The file that a class was written in; classes of C count as installed."""
    if is_standard(kind):
        return "<frozen>"
    module = sys.modules.get(module_of(kind))
    return (vars(module).get("__file__") if module else None) or "<unknown>"


def holds(function: types.FunctionType) -> Items:
    """What a function holds itself."""
    return (
        function.__code__,
        function.__defaults__,
        function.__kwdefaults__,
        function.__closure__,
        vars(function),
    )


def _put_back(function: types.FunctionType, items: Items) -> None:
    function.__code__, function.__defaults__, function.__kwdefaults__ = items[:3]


def named(function: types.FunctionType) -> Items:
    """Names and values of what a function reads from its module, and from others through it."""
    names = names_in(function.__code__)
    spaces = [function.__globals__]
    modules = [cell.cell_contents for cell in function.__closure__ or () if _holds_module(cell)]
    modules += [sys.modules[name] for name in names if name in sys.modules]
    found: list[Any] = []
    seen = set()
    while spaces or modules:
        space = spaces.pop() if spaces else vars(modules.pop())
        if id(space) in seen:
            continue
        seen.add(id(space))
        for name in names:
            if name in space:
                value = space[name]
                found += [name, value]
                if isinstance(value, types.ModuleType):
                    modules.append(value)
    return tuple(found)


def _holds_module(cell: types.CellType) -> bool:
    try:
        return isinstance(cell.cell_contents, types.ModuleType)
    except ValueError:
        return False


@functools.lru_cache(maxsize=4096)
def names_in(code: types.CodeType) -> tuple[str, ...]:
    """The names of globals, attributes and modules in a function, and those in its texts."""
    texts = (text for text in code.co_consts if isinstance(text, str) and _is_name(text))
    inner = (names_in(c) for c in code.co_consts if isinstance(c, types.CodeType))
    names = (*code.co_names, *texts, *(name for names in inner for name in names))
    return tuple(dict.fromkeys(names))


def _is_name(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


@functools.lru_cache(maxsize=4096)
def reads_unseen(code: types.CodeType) -> bool:
    """Whether code may read what nothing holds, such as a file."""
    if not _UNSEEN_ATTRIBUTES.isdisjoint(code.co_names):
        return True
    if not _UNSEEN.isdisjoint(code.co_names):
        steps = dis.get_instructions(code)
        if any(s.argval in _UNSEEN and s.opname in ("LOAD_GLOBAL", "LOAD_NAME") for s in steps):
            return True
    return any(reads_unseen(c) for c in code.co_consts if isinstance(c, types.CodeType))


def kinds_of_code(is_own: Callable[[str], bool]) -> dict[type, tuple[Kind, ...]]:
    """How functions and classes are read; of those that are the caller's own, what they name."""

    def globals_of(function: types.FunctionType) -> Items:
        return named(function) if is_own(function.__code__.co_filename) else ()

    def attributes_of(kind: type) -> Items:
        if not is_own(file_of(kind)):
            return ()
        return (type(kind), *kind.__bases__, *(p for pair in _attributes(kind) for p in pair))

    def of_library(kind: type) -> Items:
        return () if is_own(file_of(kind)) else tuple(vars(kind).values())

    return {
        types.FunctionType: (Kind(holds, _put_back), Kind(globals_of, lends=True)),
        type: (Kind(attributes_of, lends=True), Kind(of_library, opened=False)),
    }


#: What Python keeps in a class for itself.
_PYTHONS = frozenset(
    {"__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__annotations__"}
    | {"__static_attributes__", "__firstlineno__", "__orig_bases__", "__parameters__"}
    | {"__dataclass_fields__", "__dataclass_params__", "__match_args__", "__slotnames__"}
    | {"__annotate_func__", "__annotations_cache__", "__protocol_attrs__", "__subclasshook__"}
)


def _attributes(kind: type) -> Iterator[tuple[str, Any]]:
    for name, value in list(vars(kind).items()):
        if name not in _PYTHONS and not name.startswith("_abc_"):
            yield name, value

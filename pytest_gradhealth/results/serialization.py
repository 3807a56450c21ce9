"""Frozen dataclasses to plain builtins and back, for reports, baselines and other processes."""

from __future__ import annotations

import dataclasses
import math
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from functools import cache, partial
from typing import Any, TypeVar

T = TypeVar("T")

#: Key in the metadata of a field that is left out: it holds objects of this process.
LIVE = "live"


def to_plain(value: object) -> Any:
    """Turn a dataclass tree into dicts, lists, strings, numbers, booleans and None.

    NaN and infinities become the strings ``"nan"``, ``"inf"`` and ``"-inf"``, so that the result is
    valid JSON and equal to itself. What rules of others may put in (NumPy numbers, enums, paths)
    becomes a number or a string.

    >>> to_plain((1, float("inf")))
    [1, 'inf']
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = [f.name for f in dataclasses.fields(value) if not f.metadata.get(LIVE)]
        return {name: to_plain(getattr(value, name)) for name in kept}
    if isinstance(value, Mapping):
        return {to_plain(str(key)): to_plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return to_plain(value.value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    item = getattr(value, "item", None)
    return to_plain(item()) if callable(item) else str(value)


def from_plain(kind: type[T], data: Any, *, checked: bool = False) -> T:
    """Build the dataclass `kind` from what `to_plain` made of one.

    Unknown keys are ignored, so that a newer writer can be read; a missing key without a default
    raises TypeError. Data from a file are to be `checked`: raises ValueError that names the first
    place where something else stands than the type of the record's field allows.
    """
    try:
        return typing.cast("T", _reader(typing.cast("Any", kind), checked)(data))
    except _MisfitError as misfit:
        raise ValueError(str(misfit)) from misfit


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """In an annotation: the smallest integer that a field may hold, or the fewest items."""

    least: int


class _MisfitError(Exception):
    """What was read is not what the type of a field says; `where` is the way to it."""

    def __init__(self, data: object, expected: str) -> None:
        super().__init__(data, expected)
        self.data, self.expected = data, expected
        self.where = ""

    def under(self, key: int | str) -> None:
        """Put a list's index or an object's key before the way."""
        plain = isinstance(key, str) and key.isidentifier()
        self.where = (f".{key}" if plain else f"[{key!r}]") + self.where

    def __str__(self) -> str:
        where = self.where.removeprefix(".") or "the whole"
        return f"{where} is {reprlib.repr(self.data)}, not {self.expected}"


#: Reads one kind of plain data.
_Reader: typing.TypeAlias = Callable[[Any], Any]
#: The largest integer that anything measured has: sizes of 64 bits.
_MOST = 2**63 - 1
_EXPECTED = {str: "a string", bool: "true or false", int: "an integer", float: "a number"}


@cache
def _reader(kind: Any, checked: bool) -> _Reader:
    if dataclasses.is_dataclass(kind):
        return partial(_record, kind, checked)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        inner = _reader(arguments[0], checked)
        return partial(_bounded, inner, arguments[1].least) if checked else inner
    if origin in (typing.Union, types.UnionType):
        inner = _reader(next(a for a in arguments if a is not type(None)), checked)
        return lambda data: None if data is None else inner(data)
    if origin is tuple:
        return partial(_sequence, _reader(arguments[0], checked), checked)
    if origin is typing.Literal:
        return partial(_choice, arguments) if checked else _as_it_is
    if origin is not None:
        return partial(_mapping, _reader(arguments[1], checked), checked)
    if kind is float:
        return partial(_number, checked)
    return partial(_exactly, kind) if checked and kind in _EXPECTED else _as_it_is


def _as_it_is(data: Any) -> Any:
    return data


def _exactly(kind: type, data: Any) -> Any:
    if type(data) is not kind or (isinstance(data, int) and abs(data) > _MOST):
        raise _MisfitError(data, _EXPECTED[kind])
    return data


def _number(checked: bool, data: Any) -> float:
    if checked and type(data) not in (int, float) and data not in ("nan", "inf", "-inf"):
        raise _MisfitError(data, _EXPECTED[float])
    return float(data)


def _choice(values: Sequence[object], data: Any) -> Any:
    if data not in values:
        raise _MisfitError(data, f"one of {', '.join(map(repr, values))}")
    return data


def _bounded(inner: _Reader, least: int, data: Any) -> Any:
    value = inner(data)
    if isinstance(value, tuple) and len(value) < least:
        raise _MisfitError(data, f"a list of {least} or more")
    if isinstance(value, int) and value < least:
        raise _MisfitError(data, f"{least} or more")
    return value


def _each(read: _Reader, items: Iterable[Any], keys: Sequence[int | str]) -> list[Any]:
    """Read all items; a misfit says under which key it was."""
    found: list[Any] = []
    try:
        found.extend(map(read, items))
    except _MisfitError as misfit:
        misfit.under(keys[len(found)])
        raise
    return found


def _sequence(inner: _Reader, checked: bool, data: Any) -> tuple[Any, ...]:
    if checked and type(data) is not list:
        raise _MisfitError(data, "a list")
    return tuple(_each(inner, data, range(len(data))))


def _mapping(inner: _Reader, checked: bool, data: Any) -> Any:
    if isinstance(data, Mapping):
        return dict(zip(data, _each(inner, data.values(), [*data]), strict=True))
    if checked:
        raise _MisfitError(data, "an object")
    return data


@cache
def _fields(kind: Any, checked: bool) -> dict[str, _Reader]:
    hints = typing.get_type_hints(kind, include_extras=True)
    kept = (f for f in dataclasses.fields(kind) if f.init and not f.metadata.get(LIVE))
    return {f.name: _reader(hints[f.name], checked) for f in kept}


def _record(kind: Any, checked: bool, data: Any) -> Any:
    if checked and not isinstance(data, Mapping):
        raise _MisfitError(data, "an object")
    values = {}
    for name, read in _fields(kind, checked).items():
        if name in data:
            try:
                values[name] = read(data[name])
            except _MisfitError as misfit:
                misfit.under(name)
                raise
    return kind(**values)

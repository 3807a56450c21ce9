"""Frozen dataclasses to plain builtins and back, for reports, baselines and other processes."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from enum import Enum
from functools import cache
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


def from_plain(kind: type[T], data: Any) -> T:
    """Build the dataclass `kind` from what `to_plain` made of one.

    Unknown keys are ignored, so that a newer writer can be read; a missing key without a default
    raises TypeError.
    """
    return typing.cast("T", _build(kind, data))


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _build(kind: Any, data: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        hints = _hints(typing.cast("type", kind))
        names = {f.name for f in dataclasses.fields(kind) if f.init and not f.metadata.get(LIVE)}
        values = {name: _build(hints[name], data[name]) for name in names if name in data}
        return typing.cast("type", kind)(**values)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if data is None:
            return None
        return _build(next(a for a in arguments if a is not type(None)), data)
    if origin is tuple:
        return tuple(_build(arguments[0], item) for item in data)
    if origin is not None and isinstance(data, Mapping):
        return {key: _build(arguments[1], item) for key, item in data.items()}
    if kind is float:
        return float(data)
    return data

"""Tensors inside nested inputs and outputs: tuples, lists, mappings and dataclasses at will."""

from __future__ import annotations

import copy
import dataclasses
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor


def tensors(value: object) -> Iterator[Tensor]:
    """Yield the tensors in `value`, depth first, in the order of its containers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from tensors(getattr(value, field.name))


def attribute(value: object, name: str) -> Any:
    """An attribute of anyone's object, None where there is none: asking may raise anything."""
    try:
        return getattr(value, name, None)
    except Exception:
        return None


def map_tensors(
    change: Callable[[Tensor], Tensor], value: Any, other: Callable[[Any], Any] | None = None
) -> Any:
    """Rebuild `value` with every tensor changed; one tensor that occurs twice is changed once.

    `other` changes objects that move themselves between devices by a `to` method (a
    PackedSequence, a graph batch); without it they stay as they are.
    """
    done: dict[int, Tensor] = {}

    def rebuild(item: Any) -> Any:
        if isinstance(item, Tensor):
            if id(item) not in done:
                done[id(item)] = change(item)
            return done[id(item)]
        if isinstance(item, Mapping):
            return _rebuild_mapping(item, {key: rebuild(inner) for key, inner in item.items()})
        if callable(attribute(item, "to")) and not isinstance(item, type):
            return other(item) if other else item
        if isinstance(item, tuple) and hasattr(item, "_fields"):
            return type(item)(*map(rebuild, item))
        if isinstance(item, (tuple, list)):
            return type(item)(map(rebuild, item))
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            names = [field.name for field in dataclasses.fields(item) if field.init]
            return dataclasses.replace(item, **{n: rebuild(getattr(item, n)) for n in names})
        return item

    return rebuild(value)


def _rebuild_mapping(mapping: Mapping[Any, Any], changed: dict[Any, Any]) -> Any:
    """A mapping of the same class where that is safe to copy, else a plain dict."""
    if isinstance(mapping, (dict, UserDict)):
        twin = copy.copy(mapping)
        for key, value in changed.items():
            twin[key] = value
        return twin
    return changed

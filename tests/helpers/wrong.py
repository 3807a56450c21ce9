"""JSON with something wrong in one place."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any


def places(value: Any, way: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The ways to all that a value holds, of lists to the first item."""
    yield way
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value[:1]):
            yield from places(item, (*way, key))


WRONG: list[object] = [None, [], {}, "x", -1, math.inf, True, 10**400, [None]]


def with_wrong(way: tuple[str | int, ...], wrong: object, data: Any) -> str:
    """A report with something wrong in one place."""
    if not way:
        return json.dumps(wrong)
    holder = data
    for key in way[:-1]:
        holder = holder[key]
    right, holder[way[-1]] = holder[way[-1]], wrong
    text = json.dumps(data)
    holder[way[-1]] = right
    return text

"""What a test notes down during a probe, which puts back whatever functions close over."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
#: What is in modules is the program's own: a probe leaves it alone.
_LISTS: dict[int, list[Any]] = {}


class Notes(Generic[Item]):
    """A list that grows during a probe, and stays grown."""

    def __init__(self) -> None:
        _LISTS[id(self)] = []
        weakref.finalize(self, _LISTS.pop, id(self))

    def append(self, item: Item) -> None:
        """Note one thing down."""
        _LISTS[id(self)].append(item)

    def clear(self) -> None:
        """Forget all of it."""
        _LISTS[id(self)].clear()

    def __iter__(self) -> Iterator[Item]:
        return iter(_LISTS[id(self)])

    def __len__(self) -> int:
        return len(_LISTS[id(self)])

"""Hooks on modules and on nodes of a graph, for the length of a context."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch.utils.hooks import RemovableHandle


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[list[RemovableHandle]]:
    """Remove hooks on exit: all those that were made, also where making another one has failed.

    Further ones may be added to the list that it yields.
    """
    made: list[RemovableHandle] = []
    try:
        made.extend(handles)
        yield made
    finally:
        for handle in made:
            handle.remove()

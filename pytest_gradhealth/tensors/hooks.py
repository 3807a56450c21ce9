"""Hooks on modules and on nodes of a graph, for the length of a context."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from torch.utils.hooks import RemovableHandle


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove hooks on exit: all those that were made, also where making another one has failed."""
    with ExitStack() as stack:
        for handle in handles:
            stack.enter_context(handle)
        yield

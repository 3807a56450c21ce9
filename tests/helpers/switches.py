"""Switches of torch that hold for the whole process, turned for the length of a context."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch


@contextmanager
def _turned(read: Callable[[], Any], write: Callable[[Any], object], value: Any) -> Iterator[None]:
    before = read()
    write(value)
    try:
        yield
    finally:
        write(before)


def deterministic() -> AbstractContextManager[None]:
    switch = torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms
    return _turned(*switch, True)


def in_double() -> AbstractContextManager[None]:
    return _turned(torch.get_default_dtype, torch.set_default_dtype, torch.float64)


def other_threads() -> AbstractContextManager[None]:
    threads = 3 if torch.get_num_threads() == 1 else 1
    return _turned(torch.get_num_threads, torch.set_num_threads, threads)

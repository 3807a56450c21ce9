"""What fresh memory holds: by default whatever was there, or NaN, which tells it from numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils import deterministic

#: That of torch imports its compiler, which takes seconds.
_set_deterministic = torch._C._set_deterministic_algorithms


@contextmanager
def fresh_memory(*, filled: bool) -> Iterator[None]:
    """Have floating memory that torch hands out filled with NaN, or left as it is.

    Torch does so where it is to be deterministic; the random numbers drawn are the same. Both
    switches are as before on exit.
    """
    fill = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    algorithms = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        if filled and not algorithms:
            _set_deterministic(True, warn_only=True)
        yield
    finally:
        _set_deterministic(algorithms, warn_only=warns)
        deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]

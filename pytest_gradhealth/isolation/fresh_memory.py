"""What fresh memory holds: NaN, which no number is, or zeros, in place of whatever was there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils import deterministic

from pytest_gradhealth.tensors.dispatch import DispatchMode

#: That of torch imports its compiler, which takes seconds.
_set_deterministic = torch._C._set_deterministic_algorithms


@contextmanager
def fresh_memory(holds: Literal["nan", "zeros"]) -> Iterator[None]:
    """Have floating memory that torch hands out filled with NaN, or all of it with zeros.

    Torch does the one where it is to be deterministic; the random numbers drawn are the same. Its
    switches are as before on exit.
    """
    fill = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    algorithms = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        deterministic.fill_uninitialized_memory = holds == "nan"  # type: ignore[attr-defined]
        if holds == "nan" and not algorithms:
            _set_deterministic(True, warn_only=True)
        with _Zeroed() if holds == "zeros" else nullcontext():
            yield
    finally:
        _set_deterministic(algorithms, warn_only=warns)
        deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


class _Zeroed(DispatchMode):
    """Fills with zeros what operations return that only take memory."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func._schema.name.rpartition("::")[2]
        takes_memory = name.startswith(("empty", "new_empty"))
        return made.zero_() if takes_memory and isinstance(made, Tensor) else made

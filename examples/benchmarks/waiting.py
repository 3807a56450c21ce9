"""How often a probe makes the host wait for a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

from examples.benchmarks.pairs import Spread
from examples.benchmarks.row import Row
from examples.benchmarks.steps import probe_of
from examples.benchmarks.workloads import Workload

#: Times that a probe waits beyond a step.
TARGET = 2


def waiting_row(workload: Workload) -> Row:
    """Times that a probe waits for the GPU and a step does not, as torch warns of them."""
    workload.clear()
    beyond = _waits(probe_of(workload)) - _waits(workload.step)
    return Row("waits for the GPU", workload.name, Spread(beyond, beyond, beyond), "", TARGET)


def _waits(call: Callable[[], object]) -> int:
    call()
    seen: list[object] = []
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    # A probe keeps warnings to itself: they are counted where they are raised.
    warn = warnings.warn_explicit

    def counting(*args: Any, **_: Any) -> None:
        seen.append(args)

    try:
        warnings.warn_explicit = counting
        call()
    finally:
        warnings.warn_explicit = warn
        torch.cuda.set_sync_debug_mode(mode)
    return len(seen)

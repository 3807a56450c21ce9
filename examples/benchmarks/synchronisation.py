"""How often a probe makes the host wait for a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from unittest.mock import patch

import torch

from examples.benchmarks.steps import probe_of
from examples.benchmarks.table import Row
from examples.benchmarks.timing import Spread
from examples.benchmarks.workloads import Workload

#: Times that a probe waits beyond a step.
TARGET = 2
#: What torch says each time.
SAYING = "synchronizing CUDA operation"


def waiting_row(workload: Workload) -> Row:
    """Times that a probe waits for the GPU and a step does not, as torch warns of them."""
    workload.clear()
    beyond = _waits(probe_of(workload)) - _waits(workload.step)
    spread = Spread(beyond, beyond, beyond)
    return Row("waits for the GPU", workload.about, spread, "", TARGET, workload.name)


def _waits(call: Callable[[], object]) -> int:
    call()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        return warned(call, SAYING)
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def warned(call: Callable[[], object], text: str) -> int:
    """Count the warnings with a text that a call raises, also those that it ignores."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with patch.object(warnings, "simplefilter"):
            call()
    return sum(text in str(warning.message) for warning in seen)

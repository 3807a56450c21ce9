"""Random numbers: seeded for a probe, and as they were afterwards."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed Python, NumPy (if loaded), torch and the accelerator in use.

    `torch.manual_seed` would also queue a seed for accelerators that nobody has started yet, which
    no later restore could take back.
    """
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if device.type == "mps":
        torch.mps.manual_seed(seed)
    elif device.type != "cpu":
        torch.get_device_module(device).manual_seed_all(seed)


def restore_random_state(device: torch.device) -> Callable[[], None]:
    """Note all random states, also those of `device`; return what puts them back."""
    python = random.getstate()
    numpy = sys.modules.get("numpy")
    legacy = numpy.random.get_state() if numpy is not None else None
    cpu = torch.get_rng_state()
    states = _accelerator_states(device)

    def undo() -> None:
        random.setstate(python)
        if numpy is not None:
            numpy.random.set_state(legacy)
        torch.set_rng_state(cpu)
        for module, index, state in states:
            module.set_rng_state(state, index)

    return undo


def _accelerator_states(device: torch.device) -> list[tuple[Any, Any, Tensor]]:
    """Random states of the accelerator's devices, none if it was never started."""
    accelerator = (
        torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    )
    if accelerator is None:
        return []
    module = torch.get_device_module(accelerator)
    started = getattr(module, "is_initialized", lambda: True)()
    if device.type == "cpu" and not started:
        return []
    if accelerator.type == "mps":
        return [(module, "mps", module.get_rng_state())]
    return [(module, i, module.get_rng_state(i)) for i in range(torch.accelerator.device_count())]

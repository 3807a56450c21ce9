"""Whether there is room for the copy of a model that steps are made on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.tensors.modules import class_name
from pytest_gradhealth.training.optimizers import ADAPTIVE, OptimizerLike

#: Numbers that an adaptive optimizer keeps for each number of a parameter.
_ADAPTIVE_STATE = 2
_GIB = 2**30
#: Where Linux says what a process in a container may use, and what the machine has.
_GROUP = Path("/sys/fs/cgroup")
_MACHINE = Path("/proc/meminfo")


def check_room(
    modules: Iterable[nn.Module], optimizer: OptimizerLike | None, device: torch.device
) -> None:
    """Raise ProbeError where a copy, its gradients and the optimizer's state do not fit.

    Activations are not counted: those of the first look, which have been freed, did fit. Without a
    word from the system on what is free, nothing is raised.
    """
    modules = list(modules)
    needed, free = bytes_of_steps(modules, optimizer), free_bytes(device)
    if free is None or needed <= free:
        return
    raise ProbeError(
        f"{class_name(modules[0])} has to be looked at again after some training steps, which are"
        f" made on a copy: with gradients and optimizer state that takes {needed / _GIB:.1f} GiB,"
        f" and {device} has {free / _GIB:.1f} GiB left; pass confirm_steps=0 to judge the first"
        " look alone, or a smaller model of the same kind"
    )


def bytes_of_steps(modules: Iterable[nn.Module], optimizer: OptimizerLike | None) -> int:
    """Bytes of parameters, buffers, gradients and, where it is known to have one, a state."""
    tensors = {id(t): t for m in modules for t in (*m.parameters(), *m.buffers())}
    trained = sum(t.nbytes for t in tensors.values() if t.requires_grad)
    kind = optimizer if isinstance(optimizer, type) else type(optimizer)
    adaptive = optimizer is None or issubclass(kind, ADAPTIVE)
    state = _ADAPTIVE_STATE * trained if adaptive else 0
    return sum(t.nbytes for t in tensors.values()) + trained + state


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be allocated on a device, None if nobody tells."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return _free_on_host() if device.type == "cpu" else None


def _free_on_host() -> int | None:
    try:
        kilobytes = _table(_MACHINE)
        free = 1024 * (kilobytes["MemAvailable:"] + kilobytes.get("SwapFree:", 0))
    except (OSError, KeyError, ValueError):
        return None
    try:
        most, used = (int((_GROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        files = _table(_GROUP / "memory.stat")
    except (OSError, ValueError):  # "max" where there is no limit
        return free
    cached = files.get("active_file", 0) + files.get("inactive_file", 0)
    return min(free, most - used + cached)


def _table(path: Path) -> dict[str, int]:
    """The first number of each line by the word before it."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {name: int(number) for name, number, *_ in lines}

"""Which device a probe runs on."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from pytest_gradhealth.errors import ProbeError


def choose_device(wanted: str, model: nn.Module, source: str = "the call") -> torch.device:
    """Return the device to probe on.

    "auto": the accelerator that the model is on already, else the one torch reports, else the CPU.
    Anything else is a device string ("cpu", "cuda", "cuda:1", "mps", "xpu"). Raises ProbeError,
    naming `source`, for a device that this machine lacks.
    """
    current = device_of(model)
    accelerator = torch.accelerator.current_accelerator() if has_accelerator() else None
    if wanted == "auto":
        if current is not None and current.type != "cpu":
            return current
        return _with_index(accelerator) if accelerator is not None else torch.device("cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise ProbeError(
            f"device {wanted!r} (from {source}) is not a device; pass {_choices()}"
        ) from error
    if device.type == "cpu":
        return torch.device("cpu")
    count = torch.accelerator.device_count() if accelerator is not None else 0
    if accelerator is None or device.type != accelerator.type or (device.index or 0) >= count:
        raise ProbeError(
            f"device {wanted!r} (from {source}) is not available on this machine; pass {_choices()}"
        )
    if current is not None and device.index is None and current.type == device.type:
        return current
    return _with_index(device)


def device_of(model: nn.Module) -> torch.device | None:
    """Return the device of the first parameter or buffer, None if the model has none."""
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    return None if first is None else first.device


def on_host(tensor: Tensor) -> bool:
    """Whether a number of a tensor can be looked at without waiting for a device."""
    return tensor.is_cpu


def has_accelerator() -> bool:
    """Whether torch was built for an accelerator and finds one."""
    return torch.accelerator.is_available()


def _with_index(device: torch.device) -> torch.device:
    if device.index is not None or device.type == "mps":
        return device
    return torch.device(device.type, torch.accelerator.current_device_index())


def _choices() -> str:
    if not has_accelerator():
        return "'auto' or 'cpu'"
    accelerator = torch.accelerator.current_accelerator()
    assert accelerator is not None
    return f"'auto', 'cpu' or '{accelerator.type}' ({torch.accelerator.device_count()} found)"

"""Switches of torch that hold for the whole process or thread, and that a forward may turn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.backends import cuda, cudnn
from torch.utils import _device as default_device
from torch.utils import deterministic

#: What reads a switch, and what turns it.
_SWITCHES: tuple[tuple[Callable[[], Any], Callable[[Any], object]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda both: torch.autograd.set_detect_anomaly(*both),
    ),
    (
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda both: torch.use_deterministic_algorithms(both[0], warn_only=both[1]),
    ),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.get_num_threads, torch.set_num_threads),
    *(
        (partial(torch.is_autocast_enabled, device), partial(torch.set_autocast_enabled, device))
        for device in ("cpu", "cuda")
    ),
    *(
        (partial(torch.get_autocast_dtype, device), partial(torch.set_autocast_dtype, device))
        for device in ("cpu", "cuda")
    ),
    *(
        (partial(getattr, cudnn, name), partial(setattr, cudnn, name))
        for name in ("enabled", "benchmark", "deterministic", "allow_tf32")
    ),
    (torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled),
    (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    *(
        (getattr(cuda, f"{kind}_sdp_enabled"), getattr(cuda, f"enable_{kind}_sdp"))
        for kind in ("flash", "mem_efficient", "math")
    ),
    (
        partial(getattr, deterministic, "fill_uninitialized_memory"),
        partial(setattr, deterministic, "fill_uninitialized_memory"),
    ),
    (lambda: _Modes(), lambda modes: modes.put_back()),
)


class _Modes:
    """The modes that see every call of torch, a default device among them."""

    def __init__(self) -> None:
        self._stack = _function_modes()
        self._device = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
        self._current = default_device.CURRENT_DEVICE

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Modes) and self._known == other._known

    __hash__ = None  # type: ignore[assignment]

    @property
    def _known(self) -> tuple[object, ...]:
        return (*map(id, self._stack), id(self._device), self._current)

    def put_back(self) -> None:
        for _ in _function_modes():
            torch._C._pop_torch_function_stack()
        for mode in self._stack:
            torch._C._push_on_torch_function_stack(mode)
        torch._GLOBAL_DEVICE_CONTEXT.device_context = self._device
        default_device.CURRENT_DEVICE = self._current


def _function_modes() -> list[Any]:
    """The modes that are entered, the innermost last."""
    depth = torch._C._len_torch_function_stack()
    return [torch._C._get_function_stack_at(place) for place in range(depth)]


def read_switches() -> list[Any]:
    """How all switches are set."""
    return [read() for read, _ in _SWITCHES]


def restore_modes() -> Callable[[], None]:
    """Note how all switches are set; return what sets those that were turned."""
    before = read_switches()

    def undo() -> None:
        for (read, write), value in zip(_SWITCHES, before, strict=True):
            if read() != value:
                write(value)

    return undo

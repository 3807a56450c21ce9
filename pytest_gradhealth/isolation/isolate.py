"""Leaves model, random numbers, gradients and modes as they were, whatever happens in between."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from pytest_gradhealth.isolation.random_state import restore_random_state
from pytest_gradhealth.isolation.snapshot import restore_module
from pytest_gradhealth.isolation.write_guard import WriteGuard
from pytest_gradhealth.tensors.modules import is_fsdp, process_group


@contextmanager
def isolated(modules: Iterable[nn.Module], device: torch.device) -> Iterator[None]:
    """Restore on exit all that a forward, a backward or a hook may have changed.

    That is, of every module in `modules`: attributes, training flags, hooks, parameters and
    buffers (the same tensors, bit for bit), `.grad` (the same tensors, untouched); the random
    numbers of Python, NumPy (if loaded), torch and the accelerator (if in use); the gradient,
    anomaly and determinism modes and the default dtype. Warnings are kept inside. Compiled modules
    run as they were written.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.callback(_restore_modes())
        stack.callback(restore_random_state(device))
        guard = WriteGuard()
        for module in modules:
            _reshard(module)
            stack.callback(restore_module(module, guard))
            stack.callback(_reshard, module)
        if guard.watches:
            stack.enter_context(guard)
        yield


def _reshard(root: Any) -> None:
    """Have modules under fully_shard hold their own parameters again, not those of a forward."""
    if process_group() is not None:
        for module in filter(is_fsdp, root.modules()):
            module.reshard()


def _restore_modes() -> Callable[[], None]:
    anomaly = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    dtype = torch.get_default_dtype()

    def undo() -> None:
        torch.set_default_dtype(dtype)
        if (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()) != anomaly:
            torch.autograd.set_detect_anomaly(*anomaly)
        if (
            torch.are_deterministic_algorithms_enabled() != deterministic
            or torch.is_deterministic_algorithms_warn_only_enabled() != warn_only
        ):
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)

    return undo

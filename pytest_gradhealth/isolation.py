"""Leaves model, random numbers, gradients and modes as they were, whatever happens in between."""

from __future__ import annotations

import random
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Undo = Callable[[], None]


@contextmanager
def isolated(modules: Iterable[nn.Module], device: torch.device) -> Iterator[None]:
    """Restore on exit all that a forward, a backward or a hook may have changed.

    That is, of every module in `modules`: attributes, training flags, hooks, parameters and
    buffers (the same tensors, bit for bit), `.grad` (the same tensors, untouched); the random
    numbers of Python, NumPy (if loaded), torch and the accelerator (if in use); the gradient,
    anomaly and determinism modes and the default dtype. Warnings are kept inside.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.callback(_restore_modes())
        stack.callback(_restore_random_state(device))
        for module in modules:
            stack.callback(_restore_module(module))
        yield


@contextmanager
def gradients_set_aside(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Give leaf tensors an empty `.grad` and no accumulation hooks, and put both back on exit.

    The hooks are the caller's: an optimizer that steps during the backward must not step here.
    """
    kept: list[tuple[Tensor, Tensor | None, Any]] = []
    try:
        for tensor in tensors:
            hooks = tensor._post_accumulate_grad_hooks
            kept.append((tensor, tensor.grad, hooks))
            tensor.grad = None
            if hooks:
                tensor._post_accumulate_grad_hooks = OrderedDict()
        yield
    finally:
        for tensor, gradient, hooks in kept:
            tensor.grad = gradient
            if hooks:
                tensor._post_accumulate_grad_hooks = hooks


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


def _restore_modes() -> Undo:
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


def _restore_random_state(device: torch.device) -> Undo:
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


def _restore_module(root: nn.Module) -> Undo:
    modules = [(module, dict(module.__dict__), _containers(module)) for module in root.modules()]
    tensors = {id(t): t for t in [*root.parameters(), *root.buffers()]}
    values = [(t, t.data, t.detach().clone()) for t in tensors.values()]
    flags = [(p, p.requires_grad, p.grad) for p in root.parameters()]
    hooks = [(t, t._backward_hooks, dict(t._backward_hooks or {})) for t in tensors.values()]

    def undo() -> None:
        for module, attributes, containers in modules:
            for container, content in containers:
                _refill(container, content)
            module.__dict__.clear()
            module.__dict__.update(attributes)
        for tensor, data, value in values:
            _put_back(tensor, data, value)
        for parameter, requires_grad, gradient in flags:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
        for tensor, mapping, content in hooks:
            if mapping is not None:
                _refill(mapping, content)
            if tensor._backward_hooks is not mapping:
                tensor._backward_hooks = mapping

    return undo


def _containers(module: nn.Module) -> list[tuple[Any, Any]]:
    """A module's own containers (parameters, buffers, children, hooks, caches) and copies."""
    return [
        (value, value.copy())
        for value in module.__dict__.values()
        if isinstance(value, (dict, list, set))
    ]


def _refill(container: Any, content: Any) -> None:
    container.clear()
    if isinstance(container, list):
        container.extend(content)
    else:
        container.update(content)


def _put_back(tensor: Tensor, data: Tensor, value: Tensor) -> None:
    """Write a tensor's old value into its old memory, without a trace in its version counter."""
    with torch.no_grad():
        if tensor.data.data_ptr() != data.data_ptr() or tensor.shape != data.shape:
            tensor.data = data
        overlapping = any(n > 1 and s == 0 for n, s in zip(data.shape, data.stride(), strict=True))
        if not overlapping:
            data.copy_(value)

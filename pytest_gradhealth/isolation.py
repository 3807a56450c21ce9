"""Leaves model, random numbers, gradients and modes as they were, whatever happens in between."""

from __future__ import annotations

import random
import sys
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    containers = _Containers()
    for module in root.modules():
        containers.keep(module.__dict__)
    tensors = {id(t): t for t in [*root.parameters(), *root.buffers(), *containers.tensors]}
    undo_tensors = [_restore_tensor(tensor) for tensor in tensors.values()]

    def undo() -> None:
        containers.put_back()
        for undo_tensor in undo_tensors:
            undo_tensor()

    return undo


class _Containers:
    """Builtin containers and what was in them, all the way down, and the tensors met there."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self._contents: list[tuple[Any, Any]] = []
        self._seen: set[int] = set()

    def keep(self, value: object) -> None:
        """Note the content of a container, and of the containers in it."""
        if isinstance(value, Tensor):
            self.tensors.append(value)
        base = next(
            (kind for kind in (dict, list, set, deque, tuple) if isinstance(value, kind)), None
        )
        if base is None or id(value) in self._seen:
            return
        self._seen.add(id(value))
        items: Any = value
        if base is not tuple:
            self._contents.append((value, base(items)))
        for item in items.values() if base is dict else items:
            self.keep(item)

    def put_back(self) -> None:
        """Make every container hold what it held; those that still do are not touched."""
        for container, content in self._contents:
            if isinstance(container, dict):
                if not _is_same_dict(container, content):
                    container.clear()
                    for key, value in content.items():
                        container[key] = value
            elif isinstance(container, set):
                if container != content:
                    container.clear()
                    container.update(content)
            elif not _is_same_sequence(container, content):
                container.clear()
                container.extend(content)


def _is_same_dict(one: dict[Any, Any], other: dict[Any, Any]) -> bool:
    pairs = zip(one.items(), other.items(), strict=True)
    return len(one) == len(other) and all(
        mine is theirs and a is b for (mine, a), (theirs, b) in pairs
    )


def _is_same_sequence(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


def _restore_tensor(tensor: Tensor) -> Undo:
    """Undo what happens to a tensor: value, memory, gradient, flags and hooks.

    Values are written through `.data`, which leaves no trace in the version counter: a graph that
    the caller built before can still be back-propagated.
    """
    data, value = tensor.data, tensor.detach().clone()
    leaf, requires_grad = tensor.is_leaf, tensor.requires_grad
    gradient = tensor.grad if leaf else None
    hooks, registered = tensor._backward_hooks, dict(tensor._backward_hooks or {})

    def undo() -> None:
        with torch.no_grad():
            if leaf and not tensor.is_leaf and not tensor._is_view():
                tensor.detach_()
            if data.layout != torch.strided:
                tensor.data = value
            else:
                if not _is_same_memory(tensor, data):
                    tensor.data = data
                if not _overlaps_itself(data):
                    data.copy_(value)
        if tensor.is_leaf and tensor.requires_grad != requires_grad:
            tensor.requires_grad_(requires_grad)
        if tensor.is_leaf and tensor.grad is not gradient:
            tensor.grad = gradient
        if hooks is not None:
            hooks.clear()
            hooks.update(registered)
        if tensor._backward_hooks is not hooks:
            tensor._backward_hooks = hooks

    return undo


def _is_same_memory(tensor: Tensor, data: Tensor) -> bool:
    return (
        tensor.layout == data.layout
        and tensor.data_ptr() == data.data_ptr()
        and tensor.shape == data.shape
        and tensor.stride() == data.stride()
    )


def _overlaps_itself(data: Tensor) -> bool:
    """Whether elements share memory, as in an expanded tensor: that cannot be written anyway."""
    return any(n > 1 and step == 0 for n, step in zip(data.shape, data.stride(), strict=True))

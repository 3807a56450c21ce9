"""Deep copies of model, loss and optimizer together."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable
from dataclasses import replace
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.isolation.snapshot import held_tensors
from pytest_gradhealth.isolation.write_guard import unguarded
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.modules import is_fsdp
from pytest_gradhealth.tensors.storage import has_memory
from pytest_gradhealth.training.optimizers import OptimizerLike, copy_into


def copied(
    subject: Subject, optimizer: OptimizerLike | None, device: torch.device
) -> tuple[Subject, OptimizerLike | None]:
    """Deep-copy model, loss and optimizer together and move them to `device`.

    A loss that is a method of the model becomes that of the copy; tensors that the model keeps of
    an earlier forward are copied without their graph. A model under fully_shard cannot be copied
    and stands for itself. To be called inside `isolated`, which restores it.
    """
    if any(map(is_fsdp, subject.model.modules())):
        own: dict[int, Any] = {id(p): p for p in subject.model.parameters()}
        stepper = copy_into(optimizer, own) if isinstance(optimizer, Optimizer) else optimizer
        return subject, stepper
    loss = subject.loss if isinstance(subject.loss, nn.Module) else None
    instance = optimizer if isinstance(optimizer, Optimizer) else None
    try:
        with unguarded():
            memo: dict[int, Any] = {id(t): _copy(t) for t in _special(subject.modules)}
            model, loss = copy.deepcopy((subject.model, loss), memo)
        _rebind_compiled(subject.modules, memo)
        if instance is not None:
            instance = copy_into(instance, memo)
    except Exception as error:
        raise ProbeError(
            f"{type(subject.model).__name__} cannot be deep-copied ({type(error).__name__}:"
            f" {error}), which confirming a verdict or moving to {device} takes; pass a factory"
            " that builds the model on its device, or confirm_steps=0 to judge the first look alone"
        ) from error
    model.to(device)
    if loss is not None:
        loss.to(device)
    if instance is not None:
        _move_state(instance, device)
    called: Any = loss or subject.loss
    if isinstance(called, MethodType) and called.__self__ is subject.model:
        called = MethodType(called.__func__, model)
    twin = replace(subject, model=model, loss=called, device=device)
    return twin, instance or optimizer


def _special(modules: Iterable[nn.Module]) -> list[Tensor]:
    """Tensors of modules that torch does not copy: odd ones, freed ones, and those of a graph.

    The last output of a model with a memory, or the weight that torch.nn.utils.weight_norm and
    pruning compute anew before every forward.
    """
    found = held_tensors(modules)
    odd = [t for t in found if t.layout in _COMPRESSED or t.is_nested or not has_memory(t)]
    return odd + [t for t in found if not t.is_leaf]


def _copy(tensor: Tensor) -> Tensor:
    if has_memory(tensor):
        twin = tensor.detach().clone()
    else:
        twin = torch.empty_like(tensor.detach())
        twin.untyped_storage().resize_(0)
    if not tensor.is_leaf:
        return twin
    is_parameter = isinstance(tensor, nn.Parameter)
    return nn.Parameter(twin, tensor.requires_grad) if is_parameter else twin


_COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


def _rebind_compiled(modules: Iterable[nn.Module], memo: dict[int, Any]) -> None:
    """Give the copies plain methods for compiled ones (self.forward = torch.compile(self.forward)).

    Those hold on to the very model: its copy would compute with the original's weights.
    """
    for module in (inner for root in modules for inner in root.modules()):
        twin = memo.get(id(module))
        for name, value in vars(module).items():
            if hasattr(value, "_torchdynamo_orig_callable") and twin is not None:
                plain = inspect.unwrap(value)
                if isinstance(plain, MethodType) and plain.__self__ is module:
                    vars(twin)[name] = MethodType(plain.__func__, twin)


def _move_state(optimizer: Optimizer, device: torch.device) -> None:
    for state in optimizer.state.values():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.dim():
                state[key] = value.to(device)

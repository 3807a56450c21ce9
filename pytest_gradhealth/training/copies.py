"""Deep copies of model, loss and optimizer together."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.formatting import told
from pytest_gradhealth.isolation.snapshot import held_tensors
from pytest_gradhealth.isolation.write_guard import unguarded
from pytest_gradhealth.subject.calling import Called
from pytest_gradhealth.subject.lightning import without_trainer
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.modules import is_fsdp
from pytest_gradhealth.tensors.storage import has_memory
from pytest_gradhealth.tensors.trees import map_tensors, tensors
from pytest_gradhealth.training.optimizers import OptimizerLike
from pytest_gradhealth.training.rebinding import Twins
from pytest_gradhealth.training.together import copied as copied_optimizer


def copied(
    subject: Subject, optimizer: OptimizerLike | None, device: torch.device
) -> tuple[Subject, OptimizerLike | None]:
    """Deep-copy model, loss and optimizer together and move them to `device`.

    Functions that hold what is copied become those of the copy, as loss, to clip, as hooks,
    wherever they are kept; tensors that the model keeps of an earlier forward are copied without
    their graph. A model under fully_shard cannot be copied and stands for itself. To be called
    inside `isolated`, which restores it.
    """
    if any(map(is_fsdp, subject.model.modules())):
        if isinstance(optimizer, Optimizer):
            optimizer = copied_optimizer(optimizer, {id(p): p for p in subject.model.parameters()})
        return subject, optimizer
    loss = subject.loss if isinstance(subject.loss, nn.Module) else None
    instance = optimizer if isinstance(optimizer, Optimizer) else None
    step = "be deep-copied"
    try:
        with without_trainer(subject.model):
            held = held_tensors(subject.modules)
            with unguarded():
                memo: dict[int, Any] = {id(t): _copy(t) for t in held if _is_special(t)}
            # Guarded: what is traced anew when it is copied takes functions of torch to record.
            model, loss = copy.deepcopy((subject.model, loss), memo)
            step = "be told from its copy"
            twins = Twins(memo)
            twins.rebind((model, loss))
        if instance is not None:
            instance = copied_optimizer(instance, memo)
        step = "be moved as a copy"
        model.to(device)
        if loss is not None:
            loss.to(device)
    except Exception as error:
        raise ProbeError(
            f"{type(subject.model).__name__} cannot {step} ({told(error)}), which confirming a"
            f" verdict or moving to {device} takes; pass a factory that builds the model on its"
            " device, or confirm_steps=0 to judge the first look alone"
        ) from error
    _hook_alike(held, twins)
    if instance is not None:
        _move_state(instance, device)
    called = twins.of(subject.loss) if loss is None else loss
    inputs, targets = _with_copies((subject.inputs, subject.targets), memo)
    if isinstance(inputs, Called):
        inputs = replace(inputs, call=twins.of(inputs.call))
    twin = replace(
        subject,
        model=model,
        inputs=inputs,
        targets=targets,
        loss=called,
        device=device,
        step=replace(subject.step, clip=twins.of(subject.step.clip)),
    )
    return twin, instance or optimizer


def _with_copies(batch: Any, memo: Mapping[int, Any]) -> Any:
    """The batch, with copies of what the model or the loss holds of it (points, a latent code)."""
    if not any(id(tensor) in memo for tensor in tensors(batch)):
        return batch
    return map_tensors(lambda tensor: memo.get(id(tensor), tensor), batch)


def _is_special(tensor: Tensor) -> bool:
    """Whether torch copies no such tensor: an odd or a freed one, or one with a graph.

    The last output of a model with a memory, or the weight that torch.nn.utils.weight_norm and
    pruning compute anew before every forward.
    """
    odd = tensor.layout in _COMPRESSED or tensor.is_nested
    return odd or not tensor.is_leaf or not has_memory(tensor)


_COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


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


def _hook_alike(held: Iterable[Tensor], twins: Twins) -> None:
    """Give the copies of tensors what has been hung on them: attributes, hooks on gradients."""
    with unguarded():
        for tensor in held:
            twin = twins.of(tensor)
            if twin is not tensor:  # torch does not copy these either
                twin.__dict__.update({n: twins.of(v) for n, v in tensor.__dict__.items()})
            if tensor.is_leaf and twin is not tensor and twin.requires_grad:
                for hook in (tensor._backward_hooks or {}).values():
                    twin.register_hook(twins.of(hook))


def _move_state(optimizer: Optimizer, device: torch.device) -> None:
    for state in optimizer.state.values():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.dim():
                state[key] = value.to(device)

"""The second look: on a deep copy, after a few steps of the user's optimizer."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pytest_gradhealth.capture import Look, Subject, look, named_parameters, run_backward
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.graph import walk
from pytest_gradhealth.isolation import gradients_set_aside, isolated, seed_everything
from pytest_gradhealth.optimizers import OptimizerLike, build, copy_into


def copied(
    subject: Subject, optimizer: OptimizerLike | None, device: torch.device
) -> tuple[Subject, OptimizerLike | None]:
    """Deep-copy model, loss and optimizer together and move them to `device`.

    A loss that is a method of the model becomes that of the copy. To be called inside `isolated`.
    """
    loss = subject.loss if isinstance(subject.loss, nn.Module) else None
    instance = optimizer if isinstance(optimizer, Optimizer) else None
    try:
        memo: dict[int, Any] = {}
        model, loss = copy.deepcopy((subject.model, loss), memo)
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


def look_after_steps(
    subject: Subject, optimizer: OptimizerLike | None, *, seed: int, steps: int
) -> Look:
    """Train a copy of `subject` for `steps` steps on its batch and look again.

    Raises ProbeError if the model, the loss or the optimizer fails on the way.
    """
    awake: set[str] = set()
    with isolated(subject.modules, subject.device):
        twin, optimizer = copied(subject, optimizer, subject.device)
        stepper = build(optimizer, [p for p in twin.model.parameters() if p.requires_grad])
        for step in range(steps):
            seed_everything(seed + step + 1, subject.device)
            try:
                stepper.step(lambda: _loss_with_gradients(twin, stepper, awake))
            except ProbeError:
                raise
            except Exception as error:
                name = type(stepper).__name__
                raise ProbeError(
                    f"optimizer {name} raised {type(error).__name__}: {error} in its step"
                ) from error
        seen = look(twin, seed=seed, steps=steps)
    return replace(seen, profile=replace(seen.profile, awake=tuple(sorted(awake))))


def _loss_with_gradients(twin: Subject, stepper: Optimizer, awake: set[str]) -> Any:
    """The closure of a step; leaves outside the copy, which a loss may read, get no gradient."""
    with torch.enable_grad():
        stepper.zero_grad()
        loss = twin.run()
        own = {id(p) for module in twin.modules for p in module.parameters()}
        foreign = [leaf for leaf in walk(loss).leaves if id(leaf) not in own]
        with gradients_set_aside(foreign):
            run_backward(loss)
    for name, (parameter, _) in named_parameters(twin.model).items():
        gradient = parameter.grad
        if name not in awake and gradient is not None and bool(gradient.any()):
            awake.add(name)
    return loss


def _move_state(optimizer: Optimizer, device: torch.device) -> None:
    for state in optimizer.state.values():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.dim():
                state[key] = value.to(device)

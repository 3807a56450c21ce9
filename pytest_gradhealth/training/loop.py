"""The user's training step, made on a copy: forward, penalty, backward, clipping, optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.formatting import told
from pytest_gradhealth.isolation.gradients import gradients_set_aside
from pytest_gradhealth.isolation.random_state import seed_everything
from pytest_gradhealth.subject.calling import Called
from pytest_gradhealth.subject.lightning import training_step
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.modules import is_sharded
from pytest_gradhealth.training.gradients import clip_gradients, penalty_of
from pytest_gradhealth.training.holdings import first_rate, rate_of
from pytest_gradhealth.training.optimizers import OptimizerLike, build

Watcher = Callable[[nn.Module, Tensor], None]
#: Steps in which a learning rate that begins lower, or at zero, gets to what was declared.
WARM_UP = 20


def optimizer_for(subject: Subject, optimizer: OptimizerLike | None) -> Optimizer:
    """Make the optimizer of all that is trained of `subject`, a copy."""
    trained = [p for p in subject.model.parameters() if p.requires_grad]
    return build(optimizer, trained, fused=subject.fused)


def train(
    subject: Subject,
    optimizer: Optimizer,
    *,
    seed: int,
    steps: int,
    anew: bool = True,
    before_clip: Watcher | None = None,
    after_clip: Watcher | None = None,
) -> Iterator[Tensor]:
    """Train `subject`, a copy, on its batch; yield each step's data loss (0-dim, detached).

    The random numbers of each step are drawn `anew`, or are the same in all of them. A warm-up that
    a scheduler has begun is gone through. The watchers are called with the model, its gradients in
    place, and the loss. To be called inside `isolated`. Raises ProbeError if the model, the loss or
    the optimizer fails on the way.
    """
    takes_closure = _takes_closure(optimizer)
    warming = [*_warming(optimizer)]
    for number in range(steps):
        for group, first, full in warming:
            group["lr"] = first + (full - first) * min(1.0, number / WARM_UP)
        seed_everything(seed + (number + 1) * anew, subject.device)
        losses: list[Tensor] = []

        def closure(losses: list[Tensor] = losses) -> Tensor:
            total = _backward(subject, optimizer, losses)
            if before_clip is not None:
                before_clip(subject.model, total)
            clip_gradients(list(subject.model.parameters()), subject.step.clip)
            if after_clip is not None:
                after_clip(subject.model, total)
            return total

        try:
            if takes_closure:
                optimizer.step(closure)  # type: ignore[arg-type]
                takes_closure = bool(losses)
            if not takes_closure:
                closure()
                optimizer.step()
        except ProbeError:
            raise
        except Exception as error:
            name = type(optimizer).__name__
            raise ProbeError(f"optimizer {name} raised {told(error)} in its step") from error
        yield losses[0]


def _warming(optimizer: Optimizer) -> Iterator[tuple[dict[str, Any], float, float]]:
    """Groups that a scheduler has begin lower than they were declared, with both rates."""
    for group in () if optimizer.state else optimizer.param_groups:
        first, full = rate_of(group), first_rate(group)
        if first is not None and full is not None and first < full:
            yield group, first, full


def _takes_closure(optimizer: Optimizer) -> bool:
    """Whether a step accepts a closure, as those of torch do; a home-made one may yet ignore it."""
    try:
        inspect.signature(optimizer.step).bind(None)
    except (TypeError, ValueError):
        return False
    return True


def _backward(subject: Subject, optimizer: Optimizer, losses: list[Tensor]) -> Tensor:
    """Fill the gradients; leaves outside the copy, which a loss may read, get none."""
    with torch.enable_grad():
        optimizer.zero_grad()
        run = Pass(subject)
        loss = run.run()
        if subject.scale != 1.0:
            loss = loss * subject.scale
        losses.append(loss.detach().reshape(()))
        if subject.step.regularizer is not None:
            loss = loss + penalty_of(subject.model, subject.step.regularizer)
        own = {id(p) for module in subject.modules for p in module.parameters()}
        graph = run.graph(loss)
        foreign = [leaf for leaf in graph.leaves if id(leaf) not in own]
        # fully_shard computes with parameters of its own making.
        if len(foreign) == len(graph.leaves) and not is_sharded(subject.model):
            name = type(subject.model).__name__
            called = isinstance(run.inputs, Called) and run.inputs.call is not training_step
            instead = "have call use the model that it gets, or " * called
            raise ProbeError(
                f"a copy of {name} does not compute with its own parameters (does it keep a"
                " function that holds on to the model?), so that it cannot be trained to confirm a"
                f" verdict; {instead}pass confirm_steps=0 to judge the first look alone"
            )
        with gradients_set_aside(foreign):
            run.backward(loss * subject.loss_scale.value)
        if subject.loss_scale.value != 1.0:
            _unscale(subject)
    return loss


@torch.no_grad()
def _unscale(subject: Subject) -> None:
    """Take the loss scale out of the gradients, as a GradScaler does before they are clipped."""
    for module in subject.modules:
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(subject.loss_scale.value)

"""The user's training step, made on a copy: forward, penalty, backward, clipping, optimizer."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pytest_gradhealth.capture import Subject, run_backward
from pytest_gradhealth.distributed import anywhere
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.graph import sequence_number, walk
from pytest_gradhealth.isolation import gradients_set_aside, seed_everything
from pytest_gradhealth.norms import l2_norm, to_numbers
from pytest_gradhealth.parameters import named_parameters
from pytest_gradhealth.records import Update
from pytest_gradhealth.step import clip_gradients, penalty_of
from pytest_gradhealth.wrappers import is_sharded

Watcher = Callable[[nn.Module], None]


def train(
    subject: Subject,
    optimizer: Optimizer,
    *,
    seed: int,
    steps: int,
    before_clip: Watcher | None = None,
    after_clip: Watcher | None = None,
) -> Iterator[Tensor]:
    """Train `subject`, a copy, on its batch; yield each step's data loss (0-dim, detached).

    The watchers are called with the model, its gradients in place. To be called inside `isolated`.
    Raises ProbeError if the model, the loss or the optimizer fails on the way.
    """
    takes_closure = _takes_closure(optimizer)
    for number in range(steps):
        seed_everything(seed + number + 1, subject.device)
        losses: list[Tensor] = []

        def closure(losses: list[Tensor] = losses) -> Tensor:
            total = _backward(subject, optimizer, losses)
            if before_clip is not None:
                before_clip(subject.model)
            clip_gradients(list(subject.model.parameters()), subject.step.clip)
            if after_clip is not None:
                after_clip(subject.model)
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
            raise ProbeError(
                f"optimizer {name} raised {type(error).__name__}: {error} in its step"
            ) from error
        yield losses[0]


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
        began = sequence_number()
        loss = subject.run()
        losses.append(loss.detach().reshape(()))
        if subject.step.regularizer is not None:
            loss = loss + penalty_of(subject.model, subject.step.regularizer)
        own = {id(p) for module in subject.modules for p in module.parameters()}
        graph = walk(loss)
        foreign = [leaf for leaf in graph.leaves if id(leaf) not in own]
        # fully_shard computes with parameters of its own making.
        if len(foreign) == len(graph.leaves) and not is_sharded(subject.model):
            name = type(subject.model).__name__
            raise ProbeError(
                f"a copy of {name} does not compute with its own parameters (does it keep a"
                " function that holds on to the model?), so that it cannot be trained to confirm a"
                " verdict; pass confirm_steps=0 to judge the first look alone"
            )
        with gradients_set_aside(foreign):
            run_backward(loss * subject.loss_scale.value, keep=graph.reaches_behind(began))
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


def updates(
    subject: Subject, optimizer: Optimizer, *, seed: int, steps: int, exempt: frozenset[str]
) -> tuple[Update, ...]:
    """Train `subject`, a copy, and measure what each step does; stops when a number is not finite.

    Weights in `exempt` (those whose scale a normalisation layer takes out) may change as they like.
    """
    found: list[Update] = []
    scales = _Scales()
    watched = {
        name: parameter
        for name, (parameter, _) in named_parameters(subject.model).items()
        if parameter.requires_grad and parameter.dim() > 1 and name not in exempt
    }
    run = train(
        subject,
        optimizer,
        seed=seed,
        steps=steps,
        before_clip=scales.before,
        after_clip=scales.after,
    )
    for number in range(1, steps + 1):
        old = {name: parameter.detach().clone() for name, parameter in watched.items()}
        scales.reset()
        loss = next(run)
        changes = [
            _change(old[name], parameter.detach()) / scales.backwards
            for name, parameter in watched.items()
        ]
        value, gradient, clipped, *shares = to_numbers([loss, *scales.found, *changes])
        by_name = dict(zip(watched, shares, strict=True))
        worst = max(by_name, key=lambda name: _order(by_name[name]), default="")
        layer = worst.rpartition(".")[0] or worst
        change = by_name.get(worst, 0.0)
        found.append(Update(number, value, gradient, clipped, layer, change))
        if anywhere(subject.model, not found[-1].finite):
            break
    return tuple(found)


@dataclass
class _Scales:
    """Norms of the gradients of all parameters in the first backward of a step, and how many."""

    found: list[Tensor] = field(default_factory=list)
    backwards: int = 0

    def before(self, model: nn.Module) -> None:
        self.backwards += 1
        if not self.found:
            self.found.append(_gradient_norm(model))

    def after(self, model: nn.Module) -> None:
        if len(self.found) == 1:
            self.found.append(_gradient_norm(model))

    def reset(self) -> None:
        self.found, self.backwards = [], 0


def _gradient_norm(model: nn.Module) -> Tensor:
    norms = [l2_norm(p.grad) for p in model.parameters() if p.grad is not None]
    if not norms:
        return torch.zeros(())
    return l2_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))


def _change(old: Tensor, new: Tensor) -> Tensor:
    """How far a weight moved, over its norm or that of a level initialisation (variance 1/fan-in).

    The latter keeps a weight that starts near zero, as many last layers do, from looking wild.
    """
    level = math.sqrt(old.shape[0])
    return l2_norm(new - old) / l2_norm(old).clamp_min(level)


def _order(value: float) -> float:
    return math.inf if math.isnan(value) else value

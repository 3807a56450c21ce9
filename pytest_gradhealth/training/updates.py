"""What some of the user's training steps change, step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pytest_gradhealth.distributed.team import anywhere
from pytest_gradhealth.results.profile import Update
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.modules import named_parameters
from pytest_gradhealth.tensors.norms import l2_norm, to_numbers
from pytest_gradhealth.training.kind import carry_of
from pytest_gradhealth.training.loop import train


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
        carry = carry_of(optimizer)
        found.append(Update(number, value, gradient, clipped, layer, change, carry))
        if anywhere(subject.model, not found[-1].finite):
            break
    return tuple(found)


@dataclass
class _Scales:
    """Norms of the gradients of all parameters in the first backward of a step, and how many."""

    found: list[Tensor] = field(default_factory=list)
    backwards: int = 0

    def before(self, model: nn.Module, _loss: Tensor) -> None:
        self.backwards += 1
        if not self.found:
            self.found.append(_gradient_norm(model))

    def after(self, model: nn.Module, _loss: Tensor) -> None:
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

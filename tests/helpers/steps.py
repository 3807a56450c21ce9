"""Training steps by hand and by the probe, and what they are made with."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer

from pytest_gradhealth import Diagnosis, probe
from pytest_gradhealth.results.profile import Update
from tests.helpers.nets import ONES, total

Factory = Callable[[Iterable[nn.Parameter]], Optimizer]
Clip = float | Callable[[list[nn.Parameter]], object]


def sgd(rate: float, **options: Any) -> Factory:
    return lambda parameters: SGD(parameters, lr=rate, **options)


def made(diagnosis: Diagnosis) -> tuple[Update, ...]:
    return diagnosis.profile.updates


def steps_of(model: nn.Module, optimizer: Any, clip: Clip | None = None) -> tuple[Update, ...]:
    return made(
        probe(model, ONES, loss=total, optimizer=optimizer, clip=math.inf if clip is None else clip)
    )


def by_hand(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    optimizer: Any,
    clip: Clip | None,
    penalty: Callable[[nn.Module], Any] | None,
    steps: int = 10,
) -> tuple[nn.Module, list[tuple[float, float, float, float, str]]]:
    """Train a copy with the plainest loop; loss, norms, largest change and its layer per step."""
    twin = copy.deepcopy(model)
    stepper = optimizer(twin.parameters())
    rows = []
    for _ in range(steps):
        old = {n: p.detach().double().clone() for n, p in twin.named_parameters() if p.dim() > 1}
        stepper.zero_grad()
        loss = cross_entropy(twin(x), y)
        (loss if penalty is None else loss + penalty(twin)).backward()
        grads = [p.grad for p in twin.parameters() if p.grad is not None]
        before = torch.cat([g.double().flatten() for g in grads]).norm().item()
        if callable(clip):
            clip(list(twin.parameters()))
        elif clip is not None:
            scale = min(1.0, clip / (before + 1e-6))
            for gradient in grads:
                gradient.mul_(scale)
        after = torch.cat([g.double().flatten() for g in grads]).norm().item()
        stepper.step()
        changes = {}
        for name, weight in old.items():
            distance = (twin.get_parameter(name).detach().double() - weight).norm().item()
            changes[name] = distance / max(weight.norm().item(), math.sqrt(weight.shape[0]))
        worst = max(changes, key=lambda name: changes[name])
        rows.append((loss.item(), before, after, changes[worst], worst.rpartition(".")[0]))
    return twin, rows


def lasso(model: nn.Module) -> Any:
    return 1e-2 * sum(p.abs().sum() for p in model.parameters())

"""Which parameters of a model optimizers hold, told by identity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from torch import nn
from torch.optim import Optimizer

from pytest_gradhealth.results.holdings import Holdings, Maker
from pytest_gradhealth.tensors.modules import named_parameters
from pytest_gradhealth.training.together import members


def holdings_of(optimizer: Optimizer, model: nn.Module, maker: Maker) -> Holdings:
    """Compare what an optimizer holds, or several together, with what a model has to train."""
    own = named_parameters(model)
    held = [(group, p) for group in optimizer.param_groups for p in group["params"]]
    moving = {id(p) for group, p in held if first_rate(group) != 0}
    twice = set[int]()
    for one in members(optimizer):
        times = Counter(id(p) for group in one.param_groups for p in group["params"])
        twice |= {key for key, n in times.items() if n > 1}

    def names(keys: Collection[int]) -> tuple[str, ...]:
        return tuple(name for name, (p, _) in own.items() if p.requires_grad and id(p) in keys)

    tensors = {id(p): p for _, p in held}
    ours = {id(p) for p, _ in own.values()}
    return Holdings(
        maker,
        missing=names(ours - tensors.keys()),
        twice=names(twice),
        still=names(tensors.keys() - moving),
        foreign=tuple(tuple(p.shape) for key, p in tensors.items() if key not in ours),
    )


def first_rate(group: Mapping[str, Any]) -> float | None:
    """The learning rate that a group begins with, before any scheduler, None where it has none."""
    return rate_of(group, "initial_lr" if "initial_lr" in group else "lr")


def rate_of(group: Mapping[str, Any], name: str = "lr") -> float | None:
    """A learning rate of a group, None where it has none."""
    rate = group.get(name)
    with suppress(TypeError, ValueError, RuntimeError):
        return None if rate is None else float(rate)
    return None

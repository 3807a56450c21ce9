"""What limits and messages have to know of an optimizer, and what it holds of a model."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import nn
from torch.optim import Optimizer

from pytest_gradhealth.results.holdings import Holdings, Maker
from pytest_gradhealth.training.holdings import holdings_of
from pytest_gradhealth.training.optimizers import OptimizerLike, build
from pytest_gradhealth.training.together import members

#: Optimizers whose weight decay is added to the gradient, unless they say that it is decoupled.
COUPLED = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
    torch.optim.Adamax,
    torch.optim.ASGD,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
)

#: Optimizers that divide by what they know of the gradient's size plus eps.
ADAPTIVE = (
    torch.optim.Adagrad,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
)


@dataclass(frozen=True)
class Kind:
    """What limits and messages need to know of an optimizer: name, learning rate, family.

    With SGD steps are proportional to gradients, so that small gradients mean no learning. `decay`
    is the weight decay that becomes part of the gradient, by parameter name, where there is any.
    `eps` is what an adaptive optimizer adds to the gradient's size before it divides by that, the
    smallest of its parameter groups'. `holdings` are unknown where it is none or a class, and so
    are `rates`, the learning rates by parameter name, where its first step goes down the loss.
    """

    name: str
    rate: float | None
    sgd: bool
    decay: Mapping[str, float] = field(default_factory=dict)
    eps: float | None = None
    holdings: Holdings | None = None
    rates: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name if self.rate is None else f"{self.name}(lr={self.rate:g})"


def kind_of(optimizer: OptimizerLike | None, model: nn.Module, maker: Maker = "caller") -> Kind:
    """Tell the kind of an optimizer, building one only where a factory gives no other way."""
    if optimizer is None:
        return Kind("Adam", 1e-3, sgd=False)
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if isinstance(optimizer, type) and issubclass(optimizer, Optimizer):
        rate = _default(optimizer, "lr")
        weight_decay = _default(optimizer, "weight_decay")
        decoupled = issubclass(optimizer, torch.optim.AdamW) or bool(
            _default(optimizer, "decoupled_weight_decay")
        )
        coupled = issubclass(optimizer, COUPLED) and not decoupled
        decay = dict.fromkeys(parameters, weight_decay) if coupled and weight_decay else {}
        sgd = issubclass(optimizer, torch.optim.SGD)
        eps = _default(optimizer, "eps") if issubclass(optimizer, ADAPTIVE) else None
        return Kind(optimizer.__name__, rate, sgd, decay, eps)
    built = build(cast("OptimizerLike", optimizer), list(parameters.values()))
    return Kind(
        " and ".join(dict.fromkeys(type(one).__name__ for one in members(built))),
        _rate(built),
        all(isinstance(one, torch.optim.SGD) for one in members(built)),
        _coupled_decay(built, parameters),
        _eps(built),
        holdings_of(built, model, maker),
        _rates(built, parameters, maker),
    )


def carry_of(optimizer: Optimizer) -> float | None:
    """How much longer momentum makes the steps of a constant gradient, None for any but SGD."""
    if not all(isinstance(one, torch.optim.SGD) for one in members(optimizer)):
        return None
    left = min(1.0 - float(group["momentum"]) for group in optimizer.param_groups)
    return 1 / left if left > 0 else math.inf


def climbs(optimizer: Optimizer) -> bool:
    """Whether some of its steps are to go up."""
    return any(group.get("maximize") for group in optimizer.param_groups)


def is_adaptive(optimizer: OptimizerLike) -> bool:
    """Whether an optimizer is known to divide by what it has seen of the gradient's size."""
    if isinstance(optimizer, type):
        return issubclass(optimizer, ADAPTIVE)
    return isinstance(optimizer, Optimizer) and any(
        isinstance(one, ADAPTIVE) for one in members(optimizer)
    )


def _rate(optimizer: Optimizer) -> float | None:
    """The learning rate, None without one or with several."""
    rates = {one.defaults.get("lr") for one in members(optimizer)}
    rate = rates.pop() if len(rates) == 1 else None
    return None if rate is None else float(rate)


def _rates(
    optimizer: Optimizer, parameters: Mapping[str, nn.Parameter], maker: Maker
) -> dict[str, float]:
    """Learning rates by parameter name, of optimizers that make one step of each gradient.

    Nothing of those that go up, nor of a Lightning module's that begins with a warm-up, which is
    left out of its rates.
    """
    groups = optimizer.param_groups
    warms_up = maker == "configure_optimizers" and any("initial_lr" in group for group in groups)
    if (
        climbs(optimizer)
        or warms_up
        or any(isinstance(one, torch.optim.LBFGS) for one in members(optimizer))
    ):
        return {}
    rates = {id(p): float(g["lr"]) for g in groups for p in g["params"] if g.get("lr") is not None}
    return {name: rates[id(p)] for name, p in parameters.items() if rates.get(id(p))}


def _eps(optimizer: Optimizer) -> float | None:
    adaptive = (one for one in members(optimizer) if isinstance(one, ADAPTIVE))
    groups = (group for one in adaptive for group in one.param_groups)
    return min((float(group.get("eps", 0.0)) for group in groups), default=None)


def _default(optimizer: type[Optimizer], name: str) -> float | None:
    """The default of a class's setting, where that is a number."""
    parameter = inspect.signature(optimizer).parameters.get(name)
    default = None if parameter is None else parameter.default
    return float(default) if isinstance(default, (int, float)) else None


def _coupled_decay(
    optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, float]:
    """Weight decay by parameter name, where the optimizer adds it to the gradient.

    AdamW and other optimizers with decoupled decay shrink weights beside the gradient.
    """
    decay = {
        id(parameter): float(group.get("weight_decay", 0.0))
        for one in members(optimizer)
        if isinstance(one, COUPLED)
        for group in one.param_groups
        if not group.get("decoupled_weight_decay")
        for parameter in group["params"]
    }
    return {name: decay[id(p)] for name, p in parameters.items() if decay.get(id(p))}

"""The optimizer of the confirm steps: a class, a factory or an instance that is never stepped."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.formatting import told
from pytest_gradhealth.training.uncompiled import uncompiled

#: A class or factory called with the parameters to optimise, or an instance to work like.
OptimizerLike = Optimizer | Callable[[Iterable[nn.Parameter]], Optimizer]

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


def build(
    optimizer: OptimizerLike | None, parameters: list[nn.Parameter], *, fused: bool = False
) -> Optimizer:
    """Make an optimizer over `parameters`: Adam with lr 1e-3 if none is declared.

    That one may be `fused`, which is faster on the CPU and rounds otherwise.

    An instance is returned as it is. Our own Adam takes no sparse gradients, and gets dense ones:
    the parameters have to be those of a copy. Raises ProbeError if that fails.
    """
    if optimizer is None:
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(_densify)  # type: ignore[no-untyped-call]
        plain = all(type(p) is nn.Parameter and p.is_cpu for p in parameters)
        fused &= plain and all(p.dtype is torch.float32 for p in parameters)
        adam = uncompiled(torch.optim.Adam)(parameters, lr=1e-3, fused=fused or None)
        if fused:
            adam.register_step_pre_hook(_align)
        return adam
    if isinstance(optimizer, Optimizer):
        return optimizer
    if not callable(optimizer):
        raise ProbeError(
            f"optimizer is a {type(optimizer).__name__}; pass a class (torch.optim.SGD), a factory"
            " (lambda params: torch.optim.SGD(params, lr=0.1)) or an optimizer"
        )
    make: Any = optimizer
    if isinstance(make, type) and issubclass(make, Optimizer):
        make = uncompiled(make)
    try:
        built = make(parameters)
    except Exception as error:
        raise ProbeError(
            f"optimizer raised {told(error)}; pass a factory that takes the"
            " parameters, for example lambda params: torch.optim.SGD(params, lr=0.1)"
        ) from error
    if not isinstance(built, Optimizer):
        raise ProbeError(
            f"optimizer returned a {type(built).__name__}, not a torch.optim.Optimizer"
        )
    given = {id(parameter) for parameter in parameters}
    if any(id(p) not in given for group in built.param_groups for p in group["params"]):
        raise ProbeError(
            "optimizer returned one over other parameters than it was given; build it from its"
            " argument, for example lambda params: torch.optim.SGD(params, lr=0.1)"
        )
    return built


def _densify(parameter: Tensor) -> None:
    if parameter.grad is not None and parameter.grad.is_sparse:
        parameter.grad = parameter.grad.to_dense()


def _align(optimizer: Optimizer, *_: object) -> None:
    """Lay gradients out as their parameters are, which fused steps take for granted."""
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        if parameter.grad is not None and parameter.grad.stride() != parameter.stride():
            parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)


@dataclass(frozen=True)
class Kind:
    """What limits and messages need to know of an optimizer: name, learning rate, family.

    With SGD steps are proportional to gradients, so that small gradients mean no learning. `decay`
    is the weight decay that becomes part of the gradient, by parameter name, where there is any.
    `eps` is what an adaptive optimizer adds to the gradient's size before it divides by that, the
    smallest of its parameter groups'.
    """

    name: str
    rate: float | None
    sgd: bool
    decay: Mapping[str, float] = field(default_factory=dict)
    eps: float | None = None

    def __str__(self) -> str:
        return self.name if self.rate is None else f"{self.name}(lr={self.rate:g})"


def kind_of(optimizer: OptimizerLike | None, parameters: Mapping[str, nn.Parameter]) -> Kind:
    """Tell the kind of an optimizer, building one only where a factory gives no other way."""
    if optimizer is None:
        return Kind("Adam", 1e-3, sgd=False)
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
    lr: Any = built.defaults.get("lr")
    known = None if lr is None else float(lr)
    sgd = isinstance(built, torch.optim.SGD)
    decay = _coupled_decay(built, parameters)
    return Kind(type(built).__name__, known, sgd, decay, _eps(built))


def carry_of(optimizer: Optimizer) -> float | None:
    """How much longer momentum makes the steps of a constant gradient, None for any but SGD."""
    if not isinstance(optimizer, torch.optim.SGD):
        return None
    left = min(1.0 - float(group["momentum"]) for group in optimizer.param_groups)
    return 1 / left if left > 0 else math.inf


def _eps(optimizer: Optimizer) -> float | None:
    if not isinstance(optimizer, ADAPTIVE):
        return None
    return min((float(group.get("eps", 0.0)) for group in optimizer.param_groups), default=None)


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
    if not isinstance(optimizer, COUPLED):
        return {}
    decay = {
        id(parameter): float(group.get("weight_decay", 0.0))
        for group in optimizer.param_groups
        if not group.get("decoupled_weight_decay")
        for parameter in group["params"]
    }
    return {name: decay[id(p)] for name, p in parameters.items() if decay.get(id(p))}


def needs_building(optimizer: OptimizerLike | None) -> bool:
    """Whether only a call tells the kind: that of a factory, which may do what it likes."""
    return optimizer is not None and not isinstance(optimizer, (type, Optimizer))


def as_factory(optimizer: OptimizerLike | None) -> OptimizerLike | None:
    """Turn an instance into a factory with its settings (those of its first group)."""
    if not isinstance(optimizer, Optimizer):
        return optimizer
    kind = type(optimizer)
    taken = inspect.signature(kind).parameters
    current = optimizer.param_groups[0]
    values = {n: current.get(n, v) for n, v in optimizer.defaults.items() if n in taken}
    return lambda parameters: kind(parameters, **values)


def copy_into(optimizer: Optimizer, memo: dict[int, Any]) -> Optimizer:
    """Deep-copy an optimizer after its parameters, which `memo` maps to their copies.

    Some optimizers (LBFGS) keep attributes that their pickled state leaves out. A step that a
    scheduler has wrapped is left behind: it belongs to the original.
    """
    twin = copy.deepcopy(optimizer, memo)
    for name, value in vars(optimizer).items():
        if name not in vars(twin) and not callable(value):
            setattr(twin, name, copy.deepcopy(value, memo))
    return twin


def configured_optimizer(model: Any) -> Optimizer | None:
    """Return the optimizer that a Lightning module makes in `configure_optimizers`.

    Its learning rate is the one before any scheduler's: a warm-up may begin at zero. None unless
    there is exactly one optimizer, over every parameter that requires grad and none from
    elsewhere. To be called inside `isolated`.
    """
    try:
        found = list(_optimizers(model.configure_optimizers()))
    except Exception:
        return None  # one that asks its Trainer for the number of steps, say
    if len(found) != 1:
        return None
    own = {id(p): p for p in model.parameters()}
    given = {id(p) for group in found[0].param_groups for p in group["params"]}
    if not {key for key, p in own.items() if p.requires_grad} <= given <= set(own):
        return None
    optimizer = copy_into(found[0], dict(own))
    for group in optimizer.param_groups:
        group["lr"] = group.get("initial_lr", group.get("lr"))
    return optimizer


def _optimizers(configured: Any) -> Iterator[Optimizer]:
    """The optimizers in what `configure_optimizers` may return, schedulers left out."""
    if isinstance(configured, Optimizer):
        yield configured
    elif isinstance(configured, Mapping):
        yield from _optimizers(configured.get("optimizer"))
    elif isinstance(configured, (list, tuple)):
        for item in configured:
            yield from _optimizers(item)


def check_belongs(optimizer: OptimizerLike | None, model: nn.Module) -> None:
    """Raise ProbeError if an optimizer instance holds none of the model's parameters."""
    if not isinstance(optimizer, Optimizer):
        return
    own = {id(parameter) for parameter in model.parameters()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise ProbeError(
            "optimizer holds none of the model's parameters; build it from this model's"
            " parameters() or pass its class"
        )

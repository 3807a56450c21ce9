"""The optimizer of the confirm steps: a class, a factory or an instance that is never stepped."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.formatting import told
from pytest_gradhealth.training.together import as_one, copied, members
from pytest_gradhealth.training.uncompiled import uncompiled

#: A class or factory called with the parameters to optimise, or an instance to work like.
OptimizerLike = Optimizer | Callable[[Iterable[nn.Parameter]], Optimizer]
#: The same, or several over a model's parts, that take their steps together.
OptimizersLike = OptimizerLike | Sequence[Optimizer]


def build(
    optimizer: OptimizerLike | None, parameters: list[nn.Parameter], *, fused: bool = False
) -> Optimizer:
    """Make an optimizer over `parameters`: Adam with lr 1e-3 if none is declared.

    That one may be `fused`, which is faster on the CPU and rounds otherwise. Its eps is one that
    float16 does not round to zero, where there is any.

    An instance is returned as it is. Our own Adam takes no sparse gradients, and gets dense ones:
    the parameters have to be those of a copy. Raises ProbeError if that fails.
    """
    if optimizer is None:
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(_densify)  # type: ignore[no-untyped-call]
        plain = all(type(p) is nn.Parameter and p.is_cpu and _is_dense(p) for p in parameters)
        fused &= plain and all(p.dtype is torch.float32 for p in parameters)
        eps = 1e-4 if any(p.dtype is torch.float16 for p in parameters) else 1e-8
        adam = uncompiled(torch.optim.Adam)(parameters, lr=1e-3, eps=eps, fused=fused or None)
        if fused:
            adam.register_step_pre_hook(_align)
        return adam
    if isinstance(optimizer, Optimizer):
        return optimizer
    if not callable(optimizer):
        raise ProbeError(f"optimizer is a {type(optimizer).__name__}; pass {_instead(optimizer)}")
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


def _instead(given: object) -> str:
    """What to pass in place of something that is no optimizer, and makes none."""
    if isinstance(given, Mapping):
        return "those in it as a list, [*optimizers.values()]"
    kept = getattr(given, "__dict__", {})
    held = next((name for name, value in kept.items() if isinstance(value, Optimizer)), None)
    if held is not None:
        return f"the torch.optim.Optimizer that it holds, its .{held}"
    return (
        "a class (torch.optim.SGD), a factory (lambda params: torch.optim.SGD(params, lr=0.1)) or"
        " an optimizer"
    )


def _is_dense(tensor: Tensor) -> bool:
    """Whether each element has a place of its own, without gaps: fused steps go by the memory."""
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    return 1 + sum((size - 1) * stride for size, stride in pairs) == tensor.numel()


def _densify(parameter: Tensor) -> None:
    if parameter.grad is not None and parameter.grad.is_sparse:
        parameter.grad = parameter.grad.to_dense()


def _align(optimizer: Optimizer, *_: object) -> None:
    """Lay gradients out as their parameters are, which fused steps take for granted."""
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        if parameter.grad is not None and parameter.grad.stride() != parameter.stride():
            parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)


def needs_building(optimizer: OptimizerLike | None) -> bool:
    """Whether only a call tells the kind: that of a factory, which may do what it likes."""
    return optimizer is not None and not isinstance(optimizer, (type, Optimizer))


def as_factory(optimizer: OptimizerLike | None) -> OptimizerLike | None:
    """Turn an instance, or the first of several, into a factory with its first group's settings."""
    if not isinstance(optimizer, Optimizer):
        return optimizer
    optimizer = members(optimizer)[0]
    kind = type(optimizer)
    taken = inspect.signature(kind).parameters
    current = optimizer.param_groups[0]
    values = {n: current.get(n, v) for n, v in optimizer.defaults.items() if n in taken}
    return lambda parameters: kind(parameters, **values)


def configured_optimizer(model: Any) -> Optimizer | None:
    """Return the optimizer that a Lightning module makes in `configure_optimizers`, or all as one.

    Its learning rate is the one before any scheduler's: a warm-up may begin at zero. Only where one
    does are rates noted as initial. None unless there is one, and they hold parameters of the
    model. To be called inside `isolated`.
    """
    try:
        found = as_one([*_optimizers(model.configure_optimizers())])
        check_belongs(found, model)
    except Exception:
        found = None  # of one that asks its Trainer for the number of steps, say
    if not isinstance(found, Optimizer):
        return None
    optimizer = copied(found, {id(p): p for p in model.parameters()})
    for group in optimizer.param_groups:
        initial = group.pop("initial_lr", None)
        if initial is not None and group["lr"] != initial:
            group["lr"] = group["initial_lr"] = initial
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
            "optimizer holds none of the model's parameters: it was built over another model's, or"
            " before these were made anew (a copy, fully_shard, load_state_dict(assign=True));"
            " build it from this model's parameters(), or pass its class"
        )

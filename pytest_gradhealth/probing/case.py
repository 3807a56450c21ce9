"""What the caller handed over, and words on why that cannot be probed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import isroutine
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from pytest_gradhealth.config.arguments import require
from pytest_gradhealth.config.values import as_int
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.measure.precision import declared_scale
from pytest_gradhealth.results.diagnosis import Diagnosis
from pytest_gradhealth.rules import Rule
from pytest_gradhealth.subject.calling import Call, name_of
from pytest_gradhealth.subject.inputs import check_batch
from pytest_gradhealth.subject.loss import Loss
from pytest_gradhealth.subject.step import Step, check_step
from pytest_gradhealth.tensors.modules import class_name
from pytest_gradhealth.tensors.unwrap import is_inside_fake_mode, is_inside_transform
from pytest_gradhealth.training.optimizers import OptimizersLike

ModelLike = nn.Module | Callable[[], nn.Module]


@dataclass(frozen=True)
class Case:
    """What the caller handed over: a model or a factory, a batch, a loss and an optimizer.

    Assertions may be handed a Diagnosis in place of the model, which is not diagnosed again.

    `step` declares the rest of the training step; with it, a few steps are made and judged.
    `dependency` is how many steps back in time the gradient has to reach; `precision` the format
    that the model is to be trained in, `loss_scale` a number or a GradScaler. `call` calls the
    model with the inputs, in place of its forward. `rules` come on top of those that apply anyhow.
    """

    model: ModelLike | Diagnosis
    inputs: Any
    targets: Any = None
    loss: Loss | None = None
    optimizer: OptimizersLike | None = None
    step: Step | None = None
    dependency: int | None = None
    precision: Any = None
    loss_scale: Any = None
    call: Call | None = None
    rules: Sequence[Rule] = ()

    def __post_init__(self) -> None:
        steps = as_int(self.dependency)
        object.__setattr__(self, "dependency", self.dependency if steps is None else steps)

    @property
    def is_factory(self) -> bool:
        """Whether the model is built anew for every seed."""
        return not isinstance(self.model, nn.Module)


def check_begun(module: nn.Module) -> None:
    """Raise ProbeError for a module that nothing can be asked of, not even its parameters."""
    if "_modules" not in vars(module) and not isinstance(module, torch.jit.ScriptModule):
        raise ProbeError(
            f"the __init__ of {class_name(module)} has not called super().__init__(); call it first"
            ", so that it can hold parameters"
        )


def check_case(case: Case) -> None:
    """Raise ProbeError for arguments that cannot be what they are meant to be.

    What they hold is looked at by `check_inputs`, once for every probe.
    """
    if is_inside_transform():
        raise ProbeError(
            "a probe cannot run inside torch.func.vmap, grad or jvp, which would transform all that"
            " it does; call it outside, with plain tensors"
        )
    if is_inside_fake_mode():
        raise ProbeError(
            "a probe cannot run inside FakeTensorMode, in which tensors hold no numbers; call it"
            " outside"
        )
    require(
        "model",
        case.model,
        lambda model: isinstance(model, Diagnosis) or callable(model),
        in_place_of(case.model)
        or "a torch.nn.Module, or a function without arguments that builds one"
        + ", before the inputs" * isinstance(case.inputs, nn.Module),
    )
    _check_loss(case)
    require(
        "call",
        case.call,
        _is_function,
        "a function of the model and its inputs, for example lambda model, x: model.encode(x)",
    )
    for made in (case.model, case.loss):
        if isinstance(made, nn.Module):
            check_begun(made)
    if isinstance(case.optimizer, (Optimizer, list, tuple)) and case.is_factory:
        raise ProbeError(
            "optimizer is an instance, but the model is built anew for every seed; pass the"
            " optimizer's class or a factory"
        )
    if case.step is not None:
        check_step(case.step)
    declared_scale(case.precision, case.loss_scale)
    require(
        "dependency",
        case.dependency,
        lambda steps: steps is None or (type(steps) is int and 1 <= steps < 2**62),
        "how many steps back in time the gradient has to reach, for example dependency=27 for the"
        " first of 28 steps",
    )
    check_batch(case.inputs, case.targets)


def _check_loss(case: Case) -> None:
    """Raise ProbeError for what is no function, and for one that stands where targets should."""
    require(
        "loss",
        case.loss,
        _is_function,
        "a function of outputs and targets, for example torch.nn.functional.cross_entropy",
    )
    if case.loss is None and (isroutine(case.targets) or isinstance(case.targets, _NO_TARGETS)):
        name = name_of(case.targets) + "()" * isinstance(case.targets, _NO_TARGETS)
        raise ProbeError(f"targets is the function {name}; pass it as the loss: loss={name}")
    if isinstance(case.loss, type) and issubclass(case.loss, Optimizer):
        name = case.loss.__name__
        raise ProbeError(f"loss is the optimizer {name}; pass it as optimizer={name}")
    if isinstance(case.loss, type):
        raise ProbeError(
            f"loss is the class {case.loss.__name__}; pass an instance of it:"
            f" loss={case.loss.__name__}()"
        )


#: What is a loss where targets should be.
_NO_TARGETS = (nn.Module, type)


def in_place_of(model: Any) -> str:
    """What to pass in place of what only holds a model, or its parts, "" for anything else."""
    if isinstance(model, Mapping) and any(
        isinstance(value, torch.Tensor) for value in model.values()
    ):
        return "the model that these weights are of: model.load_state_dict(weights)"
    held = [isinstance(m, nn.Module) for m in model] if isinstance(model, (list, tuple)) else []
    if any(held):
        return f"one module{', for example nn.Sequential(*layers)' * all(held)}"
    own = getattr(model, "__dict__", {}).items()
    inside = next((name for name, value in own if isinstance(value, nn.Module)), "")
    return inside and f"the module that it holds as {inside}"


def _is_function(value: object) -> bool:
    return value is None or callable(value)

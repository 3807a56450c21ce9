"""What the caller handed over, and words on why that cannot be probed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.measure.precision import declared_scale
from pytest_gradhealth.results.diagnosis import Diagnosis
from pytest_gradhealth.subject.inputs import check_inputs, check_memory
from pytest_gradhealth.subject.loss import Loss
from pytest_gradhealth.subject.step import Step, check_step
from pytest_gradhealth.tensors.unwrap import is_inside_fake_mode, is_inside_transform
from pytest_gradhealth.training.optimizers import OptimizerLike

ModelLike = nn.Module | Callable[[], nn.Module]


@dataclass(frozen=True)
class Case:
    """What the caller handed over: a model or a factory, a batch, a loss and an optimizer.

    Assertions may be handed a Diagnosis in place of the model, which is not diagnosed again.

    `step` declares the rest of the training step; with it, a few steps are made and judged.
    `dependency` is how many steps back in time the gradient has to reach; `precision` the format
    that the model is to be trained in, `loss_scale` a number or a GradScaler.
    """

    model: ModelLike | Diagnosis
    inputs: Any
    targets: Any = None
    loss: Loss | None = None
    optimizer: OptimizerLike | None = None
    step: Step | None = None
    dependency: int | None = None
    precision: Any = None
    loss_scale: Any = None

    @property
    def is_factory(self) -> bool:
        """Whether the model is built anew for every seed."""
        return not isinstance(self.model, nn.Module)


def check_case(case: Case) -> None:
    """Raise ProbeError for arguments that cannot be what they are meant to be."""
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
    if not callable(case.model):
        raise ProbeError(
            f"model is a {type(case.model).__name__}; pass a torch.nn.Module, or a function"
            " without arguments that builds one"
        )
    if case.loss is not None and not callable(case.loss):
        raise ProbeError(
            f"loss is a {type(case.loss).__name__}; pass a function of outputs and targets, for"
            " example torch.nn.functional.cross_entropy"
        )
    if isinstance(case.optimizer, Optimizer) and case.is_factory:
        raise ProbeError(
            "optimizer is an instance, but the model is built anew for every seed; pass the"
            " optimizer's class or a factory"
        )
    if case.step is not None:
        check_step(case.step)
    declared_scale(case.precision, case.loss_scale)
    dependency: object = case.dependency
    if dependency is not None and (not isinstance(dependency, int) or dependency < 1):
        raise ProbeError(
            f"dependency is {dependency!r}; pass how many steps back in time the gradient has to"
            " reach, for example dependency=27 for the first of 28 steps"
        )
    check_memory((case.inputs, case.targets))
    check_inputs(case.inputs)

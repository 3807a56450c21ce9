"""L1 and L2 regularisation: as a penalty in the loss, as weight decay in the optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from pytest_gradhealth.errors import CannotApplyError
from pytest_gradhealth.remedies.printed import LOSS, MADE, MAKER, printed
from pytest_gradhealth.remedies.remedy import Patient, Remedy
from pytest_gradhealth.subject.step import Regularizer, Step
from pytest_gradhealth.training.optimizers import build
from pytest_gradhealth.training.typed import typed

FAMILY = "regularisation"
SYMPTOMS = ("GH201", "GH202")
STRENGTH = 1e-2


def l1(model: nn.Module) -> Any:
    """The penalty on the sum of magnitudes."""
    return STRENGTH * sum(p.abs().sum() for p in model.parameters() if p.requires_grad)


def l2(model: nn.Module) -> Any:
    """The penalty on the sum of squares."""
    return STRENGTH * sum(p.square().sum() for p in model.parameters() if p.requires_grad)


def _change(regularizer: Regularizer) -> Callable[[Patient], None]:
    def change(patient: Patient) -> None:
        step = patient.step or Step()
        if step.regularizer is not None:
            raise CannotApplyError("the loss has a penalty already")
        patient.step = replace(step, regularizer=regularizer)

    return change


def _decay(patient: Patient) -> str:
    given = patient.optimizer

    def decaying(parameters: Any) -> Optimizer:
        optimizer = build(given, list(parameters))
        for group in optimizer.param_groups:
            if "weight_decay" not in group:
                raise CannotApplyError(f"{type(optimizer).__name__} knows no weight decay")
            if group["weight_decay"]:
                raise CannotApplyError(f"{type(optimizer).__name__} decays weights already")
            group["weight_decay"] = STRENGTH
        return optimizer

    example = decaying([p for p in patient.model.parameters() if p.requires_grad])
    patient.optimizer = decaying
    call = typed(example)
    if not call:
        line = f'for group in optimizer.param_groups: group["weight_decay"] = {STRENGTH:g}'
        return printed(line, MADE)
    kind = type(example)
    own = [] if call.startswith("torch.") else [f"from {kind.__module__} import {kind.__name__}"]
    rate = f"{float(example.param_groups[0].get('lr', 0)):g}"
    return printed("\n".join([*own, f"optimizer = {call.format(rate)}"]), MAKER)


WEIGHT_DECAY = Remedy("weight decay", SYMPTOMS, _decay, family=FAMILY)
L2 = Remedy(
    "L2 penalty",
    SYMPTOMS,
    _change(l2),
    printed(
        f"loss = loss + {STRENGTH:g} * sum(p.square().sum() for p in model.parameters())", LOSS
    ),
    family=FAMILY,
)
L1 = Remedy(
    "L1 penalty",
    SYMPTOMS,
    _change(l1),
    printed(f"loss = loss + {STRENGTH:g} * sum(p.abs().sum() for p in model.parameters())", LOSS),
    family=FAMILY,
)

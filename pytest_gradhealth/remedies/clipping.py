"""Gradient clipping in the training step, by norm and by value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from pytest_gradhealth.errors import CannotApplyError
from pytest_gradhealth.remedies.printed import STEP, printed
from pytest_gradhealth.remedies.remedy import Patient, Remedy
from pytest_gradhealth.subject.step import Clip, Step

#: Clipping bounds the step, not the path: tried with vanishing gradients to show that it does not
#: help there.
FAMILY = "clipping"
SYMPTOMS = ("GH202", "GH201", "GH101")


def _change(clip: Clip) -> Callable[[Patient], None]:
    def change(patient: Patient) -> None:
        step = patient.step or Step()
        if step.clip is not None:
            raise CannotApplyError("gradients are clipped already")
        patient.step = replace(step, clip=clip)

    return change


def _by_value(parameters: list[nn.Parameter]) -> None:
    torch.nn.utils.clip_grad_value_(parameters, 0.5)


BY_NORM = Remedy(
    "clip by norm",
    SYMPTOMS,
    _change(1.0),
    printed("torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)", STEP),
    family=FAMILY,
)
BY_VALUE = Remedy(
    "clip by value",
    SYMPTOMS,
    _change(_by_value),
    printed("torch.nn.utils.clip_grad_value_(model.parameters(), 0.5)", STEP),
    family=FAMILY,
)

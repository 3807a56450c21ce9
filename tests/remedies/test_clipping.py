"""Clipping changes the step and not the model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.helpers.remedies import BY_NAME, FLAT, architecture, sigmoids, treated


def test_clipping_and_penalties_change_the_step_and_not_the_model() -> None:
    model = sigmoids()
    parameters = list(model.parameters())
    for name in ("clip by norm", "clip by value", "L1 penalty", "L2 penalty", "weight decay"):
        patient, code = treated(BY_NAME[name], model, FLAT)
        assert code
        assert architecture(patient.model) == architecture(model)
        assert (patient.step is not None) != (patient.optimizer is not None), name
    l1, _ = treated(BY_NAME["L1 penalty"], model, FLAT)
    l2, _ = treated(BY_NAME["L2 penalty"], model, FLAT)
    for patient, power in ((l1, 1), (l2, 2)):
        assert patient.step is not None
        assert patient.step.regularizer is not None
        expected = 1e-2 * sum(p.detach().abs().pow(power).sum().item() for p in parameters)
        assert patient.step.regularizer(model).item() == pytest.approx(expected)


def test_clipping_by_value_cuts_each_entry() -> None:
    patient, _ = treated(BY_NAME["clip by value"], sigmoids(), FLAT)
    assert patient.step is not None
    assert callable(patient.step.clip)
    weight = nn.Parameter(torch.zeros(3))
    weight.grad = torch.tensor([-7.0, 0.25, 9.0])
    patient.step.clip([weight])
    assert weight.grad.tolist() == [-0.5, 0.25, 0.5]

"""Weight decay keeps the optimizer."""

from __future__ import annotations

import torch

from pytest_gradhealth import Patient
from tests.helpers.remedies import BY_NAME, FLAT, sigmoids


def test_weight_decay_keeps_the_optimizer_and_names_it() -> None:
    patient = Patient(sigmoids(), FLAT, lambda ps: torch.optim.SGD(ps, lr=0.3, momentum=0.9))
    code = BY_NAME["weight decay"].change(patient)
    assert code == (
        "# in place of your optimizer, once `model` has been built\n"
        "import torch\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.3, weight_decay=0.01)"
    )
    assert callable(patient.optimizer)
    built = patient.optimizer(patient.model.parameters())
    assert built.param_groups[0]["weight_decay"] == 0.01
    assert built.param_groups[0]["momentum"] == 0.9

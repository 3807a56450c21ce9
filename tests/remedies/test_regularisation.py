"""Weight decay keeps the optimizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_gradhealth import Patient
from tests.helpers.remedies import BY_NAME, FLAT, sigmoids

MAKER = "# in place of your optimizer, once `model` has been built\n"


class Slow(torch.optim.SGD):
    """An optimizer of a user's own."""


@pytest.mark.parametrize(
    ("optimizer", "code"),
    [
        (
            lambda ps: torch.optim.SGD(ps, lr=0.3, momentum=0.9, nesterov=True),
            "import torch\noptimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9,"
            " weight_decay=0.01, nesterov=True)",
        ),
        (
            lambda ps: torch.optim.Adam(ps, lr=1e-2, betas=(0.5, 0.9)),
            "import torch\noptimizer = torch.optim.Adam(model.parameters(), lr=0.01,"
            " betas=(0.5, 0.9), weight_decay=0.01)",
        ),
        (
            lambda ps: Slow(ps, lr=0.1),
            f"from {__name__} import Slow\n"
            "optimizer = Slow(model.parameters(), lr=0.1, weight_decay=0.01)",
        ),
    ],
    ids=["SGD", "Adam", "own"],
)
def test_weight_decay_keeps_the_settings_of_the_optimizer(optimizer: Any, code: str) -> None:
    patient = Patient(sigmoids(), FLAT, optimizer)
    assert BY_NAME["weight decay"].change(patient) == MAKER + code
    assert callable(patient.optimizer)
    tried = patient.optimizer(patient.model.parameters())
    space: dict[str, Any] = {"model": patient.model}
    exec(code, space)
    (one,), (other,) = tried.param_groups, space["optimizer"].param_groups
    assert {n: v for n, v in one.items() if n != "params"} == {
        n: v for n, v in other.items() if n != "params"
    }


def test_groups_of_parameters_stay_as_they_are() -> None:
    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        first, *others = parameters
        return torch.optim.SGD([{"params": [first]}, {"params": others, "lr": 0.1}], lr=0.3)

    patient = Patient(sigmoids(), FLAT, optimizer)
    code = BY_NAME["weight decay"].change(patient)
    assert code == (
        "# once, where `optimizer` has been built\n"
        'for group in optimizer.param_groups: group["weight_decay"] = 0.01'
    )
    space = {"optimizer": optimizer(patient.model.parameters())}
    exec(code, space)
    assert [g["weight_decay"] for g in space["optimizer"].param_groups] == [0.01, 0.01]

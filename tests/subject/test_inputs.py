"""Batches that cannot be probed are refused in words that say what to pass instead."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import probe
from tests.helpers.nets import batch, mlp
from tests.helpers.refusals import check, refusal


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            torch.empty(0, 20),
            "the batch is empty: the first input has shape (0, 20); pass at least one example",
        ),
        (
            {"x": [torch.empty(4, 0)]},
            "the batch is empty: the first input has shape (4, 0); pass at least one example",
        ),
        (
            torch.empty(2, 20, device="meta"),
            "an input of shape (2, 20) is on the meta device and holds no numbers; pass a real"
            " batch",
        ),
        (
            torch.tensor([[math.nan, 1.0, math.nan]]),
            "the inputs hold NaN (2 of 3 elements of an input of shape (1, 3)); clean the batch"
            " before the probe",
        ),
        (
            (torch.ones(2), {"x": torch.tensor(complex(0, math.nan))}),
            "the inputs hold NaN (1 of 1 elements of an input of shape ()); clean the batch before"
            " the probe",
        ),
        (
            torch.full((1, 20), math.nan, dtype=torch.float16),
            "the inputs hold NaN (20 of 20 elements of an input of shape (1, 20)); clean the batch"
            " before the probe",
        ),
    ],
    ids=["no examples", "no features", "meta", "NaN", "complex NaN", "half NaN"],
)
def test_batches_that_cannot_be_probed(inputs: Any, message: str) -> None:
    check(refusal(mlp(), inputs), message)


def test_only_the_first_input_may_not_be_empty() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(20, 5)

        def forward(self, x: Tensor, past: Tensor) -> Tensor:
            out: Tensor = self.layer(torch.cat([x, past]))
            return out

    assert probe(Two(), (batch()[0], torch.empty(0, 20))).verdict == "not judged"

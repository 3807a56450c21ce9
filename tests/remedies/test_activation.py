"""Activations between layers are exchanged, unless a function stands for them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import CannotApplyError
from tests.helpers.nets import mlp
from tests.helpers.remedies import BY_NAME, FLAT, treated, with_output


@pytest.mark.parametrize(
    ("name", "kind"),
    [("ReLU", nn.ReLU), ("LeakyReLU", nn.LeakyReLU), ("GELU", nn.GELU), ("SELU", nn.SELU)],
)
def test_saturating_activations_between_layers_are_exchanged(name: str, kind: type) -> None:
    patient, _ = treated(BY_NAME[name], with_output(), FLAT)
    kinds = [type(m) for m in patient.model.modules() if not any(m.children())]
    assert kinds.count(kind) == 4
    assert kinds[-1] is nn.Sigmoid, "what comes after the last layer belongs to the loss"
    assert kinds.count(nn.Sigmoid) == 1


def test_only_leaky_relu_takes_the_place_of_relu() -> None:
    patient, _ = treated(BY_NAME["LeakyReLU"], mlp(nn.ReLU), FLAT)
    assert sum(isinstance(m, nn.LeakyReLU) for m in patient.model.modules()) == 3
    with pytest.raises(CannotApplyError, match="nothing saturates between its layers"):
        BY_NAME["GELU"].apply(mlp(nn.ReLU), FLAT)


def test_a_function_cannot_be_exchanged() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(20, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.two(torch.sigmoid(self.one(x)))
            return out

    with pytest.raises(CannotApplyError) as caught:
        BY_NAME["ReLU"].apply(Functional(), FLAT)
    assert str(caught.value) == (
        "its forward calls sigmoid as a function, which cannot be exchanged from outside"
    )

"""What goes into a block is added to what comes out, by a projection where shapes differ."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import CannotApplyError
from tests.helpers.nets import mlp
from tests.helpers.remedies import (
    BY_NAME,
    FLAT,
    IMAGE,
    Branches,
    convolutional,
    tapering,
    treated,
    with_output,
)


def test_residual_adds_what_went_in() -> None:
    model: Any = mlp(nn.Sigmoid, hidden=4)
    changed = BY_NAME["residual"].apply(model, FLAT)
    x = model[1](model[0](FLAT))
    for i in range(2, 8, 2):
        x = x + model[i + 1](model[i](x))
    assert torch.allclose(changed(FLAT), model[8](x))


def test_residual_projects_where_the_shape_changes() -> None:
    given: Any = tapering()
    patient, code = treated(BY_NAME["residual"], given, FLAT)
    model: Any = patient.model
    shortcuts = [getattr(m, "shortcut", None) for m in model]
    linear = [s for s in shortcuts if isinstance(s, nn.Linear)]
    assert [(s.in_features, s.out_features) for s in linear] == [(16, 8), (8, 5)]
    assert "nn.Linear(16, 8, bias=False)" in code
    x = given[1](given[0](FLAT))
    x = x + given[3](given[2](x))
    x = linear[0](x) + given[5](given[4](x))
    x = linear[1](x) + given[7](given[6](x))
    assert torch.allclose(model(FLAT), given[8](x))


def test_residual_projects_feature_maps_with_a_stride() -> None:
    patient, code = treated(BY_NAME["residual"], convolutional(), IMAGE)
    assert "nn.Conv2d(4, 8, 1, 2, bias=False)" in code
    assert patient.model(IMAGE).shape == (16, 5)


def test_residual_leaves_the_layer_that_makes_the_output_alone() -> None:
    patient, code = treated(BY_NAME["residual"], with_output(), FLAT)
    assert "nn.Linear(32, 1" not in code
    outputs = patient.model(FLAT)
    assert bool(((outputs > 0) & (outputs < 1)).all())


def test_residual_wraps_the_blocks_of_a_list() -> None:
    model = Branches()
    changed = BY_NAME["residual"].apply(model, FLAT)
    x = torch.sigmoid(model.stem(FLAT))
    for block in model.blocks:
        x = x + block(x)
    assert torch.allclose(changed(FLAT), model.head(torch.relu(model.gate(x))))


def test_residual_says_what_to_write_in_a_custom_forward() -> None:
    class Custom(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(20, 20), nn.Linear(20, 5)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.two(self.one(x).tanh())
            return out

    with pytest.raises(CannotApplyError, match=r"write x = x \+ block\(x\)"):
        BY_NAME["residual"].apply(Custom(), FLAT)

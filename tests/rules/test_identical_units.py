"""Units that nothing tells apart fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pytest_gradhealth import IdenticalUnitsError, assert_healthy, probe, suggest
from tests.helpers.findings import told
from tests.helpers.nets import batch, mlp


def constant(model: nn.Module, *indices: int, value: float = 0.05) -> nn.Module:
    """A model with constant weights in the layers given."""
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    for index in indices or range(len(layers)):
        nn.init.constant_(layers[index].weight, value)
        assert layers[index].bias is not None
        nn.init.zeros_(layers[index].bias)  # type: ignore[arg-type]
    return model


def test_units_of_a_constant_initialisation_fail() -> None:
    x, y = batch()
    model = constant(mlp(hidden=3, width=8))
    diagnosis = probe(model, x, y, loss=F.cross_entropy)
    assert told(diagnosis, "GH406") == [
        (
            "failure",
            "0",
            "all 8 units of 0.weight are the same, and get the same gradient; so are those of"
            " 2 more weights",
        )
    ]
    with pytest.raises(IdenticalUnitsError, match=r"kaiming_normal_"):
        assert_healthy(model, x, y, loss=F.cross_entropy)


def test_a_random_initialisation_cures_them() -> None:
    x, y = batch(32)
    diagnosis = probe(constant(mlp()), x, y, loss=F.cross_entropy)
    cured = {t.remedy for t in suggest(diagnosis) if t.outcome == "cured"}
    assert {"Kaiming init", "orthogonal init"} <= cured


def test_the_units_are_the_same_after_any_training() -> None:
    """The identity behind the rule: equal rows with equal gradients stay equal."""
    x, y = batch()
    model: Any = constant(mlp(hidden=3, width=8)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(50):
        optimizer.zero_grad()
        loss: Any = F.cross_entropy(model(x.double()), y)
        loss.backward()
        optimizer.step()
    for layer in (model[0], model[2]):
        rows = layer.weight.detach()
        assert torch.allclose(rows, rows[:1].expand_as(rows), rtol=1e-9, atol=1e-12)


def test_a_constant_convolution_fails() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5)
    )
    constant(model, 0, 1)
    x, y = torch.randn(8, 1, 6, 6), torch.randint(0, 5, (8,))
    (found,) = told(probe(model, x, y, loss=F.cross_entropy), "GH406")
    assert found[:2] == ("failure", "0")


HARMLESS: dict[str, Callable[[], nn.Module]] = {
    "constant layer behind a random one": lambda: constant(mlp(), 2),
    "one unit": lambda: constant(nn.Sequential(nn.Linear(20, 1), nn.Tanh(), nn.Linear(1, 5)), 0),
    "constant with dropout": lambda: constant(
        nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 5)), 0
    ),
    "zero output layer": lambda: constant(mlp(), 2, value=0.0),
    "zero layer in the middle": lambda: nn.Sequential(
        constant(nn.Linear(20, 32), 0, value=0.0), nn.Tanh(), nn.Linear(32, 5)
    ),
    "constant layer before a random one": lambda: constant(mlp(), 0),
    "constant layer": lambda: constant(nn.Linear(20, 5)),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_the_gradient_tells_apart_is_healthy(name: str) -> None:
    x, y = batch()
    diagnosis = probe(HARMLESS[name](), x, y, loss=F.cross_entropy, select=["GH406"])
    assert diagnosis.findings == ()
    assert diagnosis.confirmation is None, "the first look was enough"


def test_equal_outputs_under_a_sum_are_the_losss_doing() -> None:
    x, _ = batch()
    model = constant(mlp(), 3)
    assert told(probe(model, x, loss=lambda y: y.sum()), "GH406") == []

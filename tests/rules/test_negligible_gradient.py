"""Gradients that drown in the eps of an optimizer fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import NegligibleGradientError, assert_healthy, probe
from pytest_gradhealth.formatting import number
from tests.helpers.findings import of, severities
from tests.helpers.nets import batch, mlp

cross_entropy = F.cross_entropy


def first_gradient(model: nn.Sequential, x: Tensor, y: Tensor) -> float:
    """RMS of the first weight's gradient under a plain cross entropy."""
    weight: Any = model[0].weight
    (gradient,) = torch.autograd.grad(cross_entropy(model(x), y), [weight])
    size: float = gradient.square().mean().sqrt().item()
    return size


ADAMS: dict[str, Callable[[nn.Module], Any]] = {
    "class": lambda _: torch.optim.Adam,
    "factory": lambda _: lambda p: torch.optim.Adam(p, lr=1e-3),
    "instance": lambda model: torch.optim.Adam(model.parameters(), lr=1e-3),
    "AdamW": lambda _: torch.optim.AdamW,
}


@pytest.mark.parametrize("kind", ADAMS)
@pytest.mark.parametrize(
    ("wanted", "severity"),
    [(1e-14, "failure"), (5e-11, "failure"), (3e-10, "warning"), (5e-9, "warning"), (1e-7, None)],
)
def test_gradients_below_eps(kind: str, wanted: float, severity: str | None) -> None:
    x, y = batch()
    model = mlp()
    scale = wanted / first_gradient(model, x, y)

    def loss(out: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(out, labels) * scale

    optimizer = ADAMS[kind](model)
    diagnosis = probe(model, x, y, loss=loss, optimizer=optimizer)
    assert diagnosis.verdict == (severity or "healthy")
    name = "AdamW" if kind == "AdamW" else "Adam"
    assert [(f.severity, f.layer, f.message) for f in of(diagnosis, "GH103")] == (
        []
        if severity is None
        else [
            (
                severity,
                "0",
                f"the gradient of 0.weight drowns in eps of {name}: its RMS is {number(wanted)},"
                f" eps is 1e-08, so steps are x{number(wanted / (wanted + 1e-8))}",
            )
        ]
    )
    if severity == "failure":
        with pytest.raises(NegligibleGradientError):
            assert_healthy(model, x, y, loss=loss, optimizer=optimizer)
    for other in (None, torch.optim.SGD):
        assert of(probe(model, x, y, loss=loss, optimizer=other), "GH103") == []


@pytest.mark.parametrize("built", [False, True], ids=["factory", "instance"])
def test_eps_is_that_of_the_optimizer(built: bool) -> None:
    x, y = batch()
    model = mlp()
    size = first_gradient(model, x, y)

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, eps=size * 1e3)

    declared: Any = optimizer(model.parameters()) if built else optimizer
    diagnosis = probe(model, x, y, loss=cross_entropy, optimizer=declared)
    assert severities(diagnosis, "GH103") == ["failure"]
    assert f"eps is {number(size * 1e3)}," in of(diagnosis, "GH103")[0].message


def test_eps_is_that_of_the_parameter_group() -> None:
    x, y = batch()
    model = mlp()
    groups = [{"params": model.parameters(), "eps": 1e3 * first_gradient(model, x, y)}]
    diagnosis = probe(model, x, y, loss=cross_entropy, optimizer=torch.optim.Adam(groups))
    assert severities(diagnosis, "GH103") == ["failure"]


@pytest.mark.parametrize("built", [False, True], ids=["class", "instance"])
def test_an_eps_under_the_root_is_another_quantity(built: bool) -> None:
    """Adadelta's steps are the gradient itself where that is small against sqrt(eps)."""
    x, y = batch()
    model = mlp()
    optimizer: Any = torch.optim.Adadelta
    diagnosis = probe(
        model,
        x,
        y,
        loss=lambda out, labels: cross_entropy(out, labels) * 1e-12,
        optimizer=optimizer(model.parameters()) if built else optimizer,
    )
    assert severities(diagnosis, "GH103") == []


def test_a_scaled_down_loss_is_healthy_until_an_optimizer_says_otherwise() -> None:
    x, y = batch()

    def loss(out: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(out, labels) * 1e-12

    assert probe(mlp(), x, y, loss=loss).verdict == "healthy"
    sick = probe(mlp(), x, y, loss=loss, optimizer=torch.optim.Adam)
    assert severities(sick, "GH103") == ["failure"]


class Interactions(nn.Module):
    """Products of small embeddings beside a part that is linear, as in networks for click rates."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Embedding(8, 8), nn.Embedding(8, 8)
        layers = (nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
        self.deep, self.wide = nn.Sequential(*layers), nn.Embedding(8, 1)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=1e-4)

    def forward(self, ids: Tensor) -> Tensor:
        one, other = ids.unbind(1)
        out: Tensor = self.deep(self.one(one) * self.other(other)) + self.wide(one)
        return out.squeeze(1)


def test_small_factors_outgrow_the_eps_of_an_optimizer() -> None:
    torch.manual_seed(1)
    ids = torch.randint(0, 8, (256, 2))
    labels = (ids.sum(1) % 2 == 0).float()
    model = Interactions()
    for optimizer in (None, torch.optim.Adam):
        settings: Any = {"loss": F.binary_cross_entropy_with_logits, "optimizer": optimizer}
        assert probe(model, ids, labels, **settings).verdict == "healthy"

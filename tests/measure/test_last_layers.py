"""Growth is measured to the last layers with weights: what is behind those is a unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import Diagnosis, probe
from pytest_gradhealth.formatting import factor
from tests.helpers.architectures import Wired
from tests.helpers.findings import said, told
from tests.helpers.nets import mlp

X = torch.linspace(-1.7, 1.7, 16 * 20).reshape(16, 20).cos() * 1.4
WANTED = X[:, :1].sin()


def exploding() -> nn.Sequential:
    model = mlp(nn.ReLU, hidden=10, classes=1)
    for name, weight in model.named_parameters():
        if name.endswith("weight"):
            nn.init.normal_(weight, std=1.0)
    return model


class Unit(nn.Module):
    """What is made of a standardised answer, as a module without weights or with two numbers."""

    def __init__(self, mean: float, std: float, *, trained: bool = False) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([mean]), requires_grad=trained)
        self.std = nn.Parameter(torch.tensor([std]), requires_grad=trained)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.std + self.mean


def reversible(m: Any, x: Tensor) -> Any:
    """What comes in raw is standardised, example by example, and what comes out is not."""
    raw = 1e5 + 3e4 * x
    mean, std = raw.mean(1, keepdim=True), raw.std(1, keepdim=True)
    return m.body((raw - mean) / std) * std + mean


def standardised(mean: float, std: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda o, t: F.mse_loss((o - mean) / std, t)


UNITS: dict[str, tuple[Callable[[Any, Tensor], Any], Callable[[Any, Tensor], Tensor]]] = {
    "a unit": (lambda m, x: 1e3 + 1e5 * m.body(x), standardised(1e3, 1e5)),
    "a module": (lambda m, x: m.unit(m.body(x)), standardised(7.0, 1e6)),
    "a trained one": (lambda m, x: m.trained(m.body(x)), standardised(7.0, 1e6)),
    "reversible": (reversible, standardised(1e5, 3e4)),
    "exponential": (
        lambda m, x: (m.body(x) + 13.8).exp(),
        lambda o, t: F.mse_loss(o.log() - 13.8, t),
    ),
    "a power": (lambda m, x: 10 ** (7 + m.body(x)), lambda o, t: F.mse_loss(o.log10() - 7, t)),
    "of a sum": (lambda m, x: 1e5 * (m.body(x) + m.wide(x)), standardised(0.0, 1e5)),
    "of a product": (
        lambda m, x: 1e6 * m.body(x) * m.wide(x).sigmoid(),
        standardised(0.0, 1e6),
    ),
    "in a dict": (
        lambda m, x: {"energy": 1e5 * m.body(x), "features": m.body[0](x)},
        lambda o, t: standardised(0.0, 1e5)(o["energy"], t),
    ),
    "of two heads": (
        lambda m, x: tuple(1e5 * head(m.body[:-1](x)) for head in (m.body[-1], m.second)),
        lambda o, t: standardised(0.0, 1e5)(o[0], t) + standardised(0.0, 1e5)(o[1], t),
    ),
}


def judged(name: str, body: nn.Module) -> Diagnosis:
    forward, loss = UNITS[name]
    parts = {"wide": nn.Linear(20, 1), "second": nn.Linear(32, 1)}
    units = {"unit": Unit(7.0, 1e6), "trained": Unit(7.0, 1e6, trained=True)}
    model = Wired(forward, body=body, **parts, **units)
    return probe(model, X, WANTED, loss=loss, select=["GH101", "GH201"])


@pytest.mark.parametrize("name", UNITS)
def test_the_unit_of_an_answer_is_no_explosion(name: str) -> None:
    assert said(judged(name, mlp(classes=1))) == []


@pytest.mark.parametrize("name", [name for name in UNITS if name not in ("exponential", "a power")])
def test_layers_that_explode_fail_in_any_unit(name: str) -> None:
    diagnosis = judged(name, exploding())
    path = diagnosis.paths[0]
    assert (path.layers or path.points)[-1].label in ("body.20", "(outputs)")
    assert told(diagnosis, "GH201")[0][0] == "failure"


def test_growth_is_the_same_in_every_unit() -> None:
    body, found = exploding(), []
    for unit in (1.0, 1e-5, 1e5):
        model = Wired(lambda m, x, unit=unit: unit * m.body(x), body=body)
        loss = standardised(0.0, unit)
        found.append(probe(model, X, WANTED, loss=loss, select=["GH201"], confirm_steps=0))
    growth = [diagnosis.paths[0].exploding for diagnosis in found]
    assert growth == pytest.approx([growth[0]] * 3)
    (message,) = {told(diagnosis, "GH201")[0][2] for diagnosis in found}
    assert message == (
        f"the gradient explodes: it grows {factor(growth[0])} to body.0 (Linear);"
        " limit x1e+03 (default)"
    )


def test_scales_that_are_all_there_is_are_judged() -> None:
    """Where nothing has a matrix, what has numbers of its own makes the depth."""

    def forward(m: Any, x: Tensor) -> Tensor:
        for scale in m.scales:
            x = scale(x)
        return x

    scales = nn.ModuleList(Unit(0.0, 10.0, trained=True) for _ in range(6))
    diagnosis = probe(Wired(forward, scales=scales), X, WANTED, loss=F.mse_loss, select=["GH201"])
    assert diagnosis.paths[0].layers == ()
    assert diagnosis.paths[0].exploding == pytest.approx(5)


@pytest.mark.parametrize("squash", [torch.sigmoid, torch.tanh])
def test_what_an_answer_loses_in_saturation_is_no_growth_of_the_layers(squash: Any) -> None:
    """Where it flattens out, next to nothing is left for the last layer to be compared with."""
    body = mlp(hidden=2, classes=1)
    nn.init.constant_(body[-1].bias, 12.0)  # type: ignore[arg-type]
    forward = lambda m, x: squash(m.body(x))  # noqa: E731
    diagnosis = probe(Wired(forward, body=body), X, WANTED, loss=F.mse_loss, select=["GH201"])
    assert diagnosis.paths[0].layers == ()
    assert diagnosis.paths[0].exploding < -3

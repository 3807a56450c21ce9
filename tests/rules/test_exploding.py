"""What explodes fails, unless a normalisation takes it out again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import probe
from tests.helpers.architectures import Wired
from tests.helpers.findings import codes, severities
from tests.helpers.nets import batch, mlp, scalar_chain

cross_entropy = nn.functional.cross_entropy


def test_large_weights_explode() -> None:
    model = mlp(nn.ReLU, hidden=10)
    for weight in (p for name, p in model.named_parameters() if name.endswith("weight")):
        nn.init.normal_(weight, std=1.0)
    x, y = batch()
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert codes(diagnosis) == ["GH201"]
    (finding,) = diagnosis.findings
    assert finding.value is not None
    assert finding.value > 1e3
    assert finding.limit == 1e3
    assert finding.limit_source == "default"


def test_an_explosion_that_the_confirm_steps_turn_into_ruin_is_confirmed() -> None:
    x = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    model = scalar_chain(5, weight=10.0, bias=0.0, activation=None)
    diagnosis = probe(model, x, loss=lambda y: y.sum(), optimizer=torch.optim.SGD)
    second = diagnosis.profiles[1].paths[0]
    assert second.vanishing < -50, "five steps of SGD overshoot"
    assert codes(diagnosis) == ["GH201"]


def scaled_before(norm: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor, Tensor]:
    """Six layers whose weights grow by 30 from one to the next, each followed by `norm`."""
    layers: list[nn.Module] = []
    for i in range(6):
        linear = nn.Linear(20 if i == 0 else 32, 32)
        linear.weight.data.mul_(30.0 ** (i - 6))
        linear.bias.data.zero_()
        layers += [linear, norm(), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(32, 5)).double()
    return model, torch.randn(64, 20, dtype=torch.float64), torch.randint(0, 5, (64,))


def test_weights_before_batch_norm_may_have_any_scale() -> None:
    model, x, y = scaled_before(lambda: nn.BatchNorm1d(32, eps=1e-30))
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert diagnosis.paths[0].exploding > 6
    assert diagnosis.verdict == "healthy"
    (finding,) = diagnosis.of(["GH201"])
    assert finding.severity == "info"
    assert finding.message.endswith("a normalisation layer takes out again: harmless")


def unrolled(padded: int, gain: float = 3.0, steps: int = 12) -> tuple[Wired, Tensor]:
    """A ReLU recurrence that multiplies by `gain`, on sequences whose first steps are padding."""

    def use(m: Any, x: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0])
        for t in range(steps):
            h = F.relu(m.cell(h) + x[:, t])
        return h

    cell = nn.Linear(4, 4, bias=False, dtype=torch.float64)
    with torch.no_grad():
        cell.weight.copy_(gain * torch.eye(4))
    x = torch.rand(8, steps, 4, dtype=torch.float64) + 0.1
    x[:, :padded] = 0
    return Wired(use, cell=cell), x


def test_padding_does_not_hide_an_explosion() -> None:
    model, x = unrolled(1)
    diagnosis = probe(model, x, loss=lambda y: y.sum(), select=["GH201"])
    path = diagnosis.profiles[0].paths[0]
    assert path.first.norm == 0, "ReLU(0) has no slope"
    together = sum(9.0**step for step in range(11)) / 12  # of all calls, the first gets nothing
    assert 10**path.exploding == pytest.approx(together**0.5, rel=1e-6)
    assert severities(diagnosis, "GH201") == ["failure"]
    calm, x = unrolled(1, gain=1.0)
    assert probe(calm, x, loss=lambda y: y.sum(), select=["GH201"]).findings == ()

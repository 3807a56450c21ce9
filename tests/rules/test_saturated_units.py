"""Units in the flat of their activation are a warning, and a failure where hardly any is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import SaturatedUnitsError, assert_healthy, probe
from pytest_gradhealth.results.diagnosis import Limit
from pytest_gradhealth.results.profile import ActivationRecord, GradientProfile
from pytest_gradhealth.rules.rule import Evidence
from pytest_gradhealth.rules.saturated_units import RULE
from tests.helpers.architectures import Squeezed, Wired, with_biases
from tests.helpers.nets import batch, mlp

cross_entropy = F.cross_entropy


def saturated(gain: float, act: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    model = mlp(act, hidden=2, width=256)
    with torch.no_grad():
        model[0].weight.mul_(gain)  # type: ignore[operator]
    return model


def flat_share(model: nn.Sequential, x: Tensor) -> float:
    with torch.no_grad():
        out = model[1](model[0](x))
    slope = 1 - out.square() if isinstance(model[1], nn.Tanh) else 4 * out * (1 - out)
    share: float = (slope < 0.01).double().mean().item()
    return share


@pytest.mark.parametrize(("act", "gain"), [(nn.Tanh, 150.0), (nn.Sigmoid, 300.0)])
def test_saturated_units_are_a_warning(act: Callable[[], nn.Module], gain: float) -> None:
    x, y = batch()
    model = saturated(gain, act)
    share = flat_share(model, x)
    assert 0.9 < share < 0.99
    (finding,) = probe(model, x, y, loss=cross_entropy, select=["GH403"]).findings
    name = type(model[1]).__name__
    assert (finding.severity, finding.layer, finding.limit) == ("warning", "1", None)
    assert finding.value == pytest.approx(share)
    assert finding.message == (
        f"{share:.0%} of 1 ({name}) is saturated; fails above 99.5% (default)"
    )
    assert_healthy(model, x, y, loss=cross_entropy, select=["GH403"])


def test_max_saturated_makes_it_a_failure() -> None:
    x, y = batch()
    model = saturated(150.0)
    share = flat_share(model, x)
    options: dict[str, Any] = {"loss": cross_entropy, "select": ["GH403"], "max_saturated": 0.5}
    diagnosis = probe(model, x, y, **options)
    (finding,) = diagnosis.findings
    assert (finding.severity, finding.limit) == ("failure", 0.5)
    assert finding.message == f"{share:.0%} of 1 (Tanh) is saturated; limit 50.0% (the call)"
    assert [profile.steps for profile in diagnosis.profiles] == [0, 5]
    with pytest.raises(SaturatedUnitsError):
        assert_healthy(model, x, y, **options)
    assert probe(saturated(1.0), x, y, **options).findings == ()


def test_almost_wholly_saturated_units_fail_by_default() -> None:
    x, y = batch()
    model = saturated(1e5)
    share = flat_share(model, x)
    assert share > 0.995
    (finding,) = probe(model, x, y, loss=cross_entropy, select=["GH403"]).findings
    assert finding.severity == "failure"
    assert finding.message == f"{share:.0%} of 1 (Tanh) is saturated; limit 99.5% (default)"


def test_a_saturated_side_branch_is_only_a_warning() -> None:
    model = Squeezed()
    with_biases(model.excite, range(16))
    x, y = torch.randn(8, 3, 8, 8), torch.randint(0, 5, (8,))
    findings = probe(model, x, y, loss=cross_entropy, select=["GH403"]).findings
    assert [(f.severity, f.message) for f in findings] == [
        ("warning", "100% of sigmoid behind excite is saturated")
    ]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda out, y: F.mse_loss(out.sigmoid(), y), ["100% of sigmoid behind 2 is saturated"]),
        (lambda out, y: F.mse_loss(out, y) + (50 * out - 1e4).sigmoid().mean(), []),
    ],
    ids=["of all", "of a term"],
)
def test_what_saturates_in_the_loss_fails_nothing(loss: Any, message: list[str]) -> None:
    model = nn.Sequential(nn.Linear(20, 8), nn.Tanh(), with_biases(nn.Linear(8, 5), range(5)))
    diagnosis = probe(model, batch()[0], torch.rand(16, 5), loss=loss, select=["GH403"])
    assert [(f.severity, f.message) for f in diagnosis.findings] == [
        ("warning", text) for text in message
    ]


def test_a_steep_gate_beside_what_the_layer_returns_is_a_warning() -> None:
    model = Wired(
        lambda m, x: m.head((h := m.fc(x)).tanh() * (1e6 * h).sigmoid()),
        fc=nn.Linear(20, 20),
        head=nn.Linear(20, 5),
    )
    findings = probe(model, *batch(), loss=cross_entropy, select=["GH403"]).findings
    assert [(f.severity, f.message) for f in findings] == [
        ("warning", "100% of sigmoid behind fc is saturated")
    ]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.ReLU6])
def test_the_defaults_of_torch_are_healthy(act: Callable[[], nn.Module], seed: int) -> None:
    torch.manual_seed(seed)
    x, y = batch()
    for model in (mlp(act), mlp(act, width=8, hidden=2)):
        assert probe(model, x, y, loss=cross_entropy).verdict == "healthy"


def gated(m: Any, x: Tensor) -> Any:
    x = m.embed(x)
    return m.body(x) * m.gate(x) + m.skip(x)


@pytest.mark.parametrize("bias", [10.0, -10.0])
@pytest.mark.parametrize("weight", [0.0, 1e-3, 0.1])
def test_a_gate_that_starts_open_or_shut_is_a_note(bias: float, weight: float) -> None:
    gate = nn.Linear(20, 5)
    nn.init.constant_(gate.weight, weight)
    nn.init.constant_(gate.bias, bias)
    model = Wired(
        gated,
        embed=nn.Linear(20, 20),
        body=mlp(),
        gate=nn.Sequential(gate, nn.Sigmoid()),
        skip=nn.Linear(20, 5),
    )
    diagnosis = probe(model, *batch(), loss=nn.functional.cross_entropy)
    (finding,) = diagnosis.of(["GH403"])
    assert (finding.severity == "info") == (weight < 0.1)
    assert ("as a gate that starts open or shut" in finding.message) == (weight < 0.1)


def test_however_many_layers_are_saturated_they_are_told_once() -> None:
    shares = [0.5, 0.91, 0.99, *198 * [0.95]]
    flat = [ActivationRecord(f"acts.{n}", "Tanh", "Tanh", 64, flat=s) for n, s in enumerate(shares)]
    look = GradientProfile(0, 0, 2.3, paths=(), activations=tuple(flat))
    found = RULE.judge(Evidence(look, None, {"max_saturated": Limit(0.995, "default")}))
    assert [(f.severity, f.layer, f.message) for f in found] == [
        (
            "warning",
            "acts.2",
            "99% of acts.2 (Tanh) is saturated, 91% or more of acts.1, acts.3 and 197 more",
        )
    ]

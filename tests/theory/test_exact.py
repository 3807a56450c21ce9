"""The probe against arithmetic that is exact, and against closed forms of mean-field theory."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import probe
from tests.helpers.nets import batch, mlp, scalar_chain, total


@pytest.mark.parametrize("input_gradient", [False, True], ids=["from layer 1", "from the input"])
def test_ten_sigmoids_at_their_steepest_leave_two_to_the_minus_twenty(input_gradient: bool) -> None:
    model = scalar_chain(10, weight=1.0, bias=-0.5, activation=nn.Sigmoid())
    x = torch.full((1, 1), 0.5, dtype=torch.float64, requires_grad=input_gradient)
    diagnosis = probe(model, x, loss=total)
    assert diagnosis.ratio == 0.25**10 == 2.0**-20
    path = diagnosis.paths[0]
    assert path.first.name == ("(input)" if input_gradient else "0")
    assert [point.norm for point in path.points if point.type == "Sigmoid"] == [
        0.25 ** (9 - i) for i in range(10)
    ]


def test_ten_sigmoids_are_exact_in_float32_too() -> None:
    model = scalar_chain(10, weight=1.0, bias=-0.5, activation=nn.Sigmoid()).float()
    assert probe(model, torch.full((1, 1), 0.5), loss=total).ratio == 2.0**-20


def test_ten_weights_of_ten_make_ten_to_the_tenth_from_the_input() -> None:
    model = scalar_chain(10, weight=10.0, bias=0.0, activation=None)
    x = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    diagnosis = probe(model, x, loss=total)
    assert diagnosis.ratio == 1e10
    assert diagnosis.paths[0].first.name == "(input)"
    assert diagnosis.paths[0].rate == pytest.approx(10)
    assert diagnosis.verdict == "failure"
    assert diagnosis.findings[0].code == "GH201"


def test_without_the_input_the_first_link_is_missing() -> None:
    model = scalar_chain(10, weight=10.0, bias=0.0, activation=None)
    assert probe(model, torch.ones(1, 1, dtype=torch.float64), loss=total).ratio == 1e9


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.1, 3.0])
def test_a_multiple_of_an_orthogonal_matrix_scales_by_exactly_that_per_layer(factor: float) -> None:
    layers = [nn.Linear(32, 32, bias=False, dtype=torch.float64) for _ in range(8)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight)
        layer.weight.data.mul_(factor)
    x = torch.randn(16, 32, dtype=torch.float64)
    path = probe(nn.Sequential(*layers), x, loss=lambda y: y.square().sum()).paths[0]
    for step in path.steps:
        assert 10**step == pytest.approx(factor, rel=1e-13)
    assert path.rate == pytest.approx(factor, rel=1e-13)


@pytest.mark.parametrize("size", [1e-4, 1e-2, 1e2, 1e4])
@pytest.mark.parametrize(
    ("activation", "hidden"), [(nn.ReLU, 3), (nn.Sigmoid, 10), (nn.ReLU, 12)], ids=str
)
def test_the_verdict_does_not_move_with_the_scale_of_the_loss(
    activation: Callable[[], nn.Module], hidden: int, size: float
) -> None:
    model = mlp(activation, hidden=hidden)
    x, y = batch()
    loss = nn.functional.cross_entropy
    plain = probe(model, x, y, loss=loss)
    scaled = probe(model, x, y, loss=lambda outputs, targets: size * loss(outputs, targets))
    assert scaled.verdict == plain.verdict
    assert [(f.code, f.severity, f.layer) for f in scaled.findings] == [
        (f.code, f.severity, f.layer) for f in plain.findings
    ]
    assert scaled.ratio == pytest.approx(plain.ratio, rel=1e-4)


@pytest.mark.parametrize("size", [1e-280, 1e-150, 1.0, 1e150, 1e280])
def test_norms_hold_over_the_whole_range_of_float64(size: float) -> None:
    model = mlp(nn.Tanh).double()
    x, y = torch.randn(16, 20, dtype=torch.float64), torch.randint(0, 5, (16,))
    loss = nn.functional.cross_entropy
    plain = probe(model, x, y, loss=loss)
    scaled = probe(model, x, y, loss=lambda outputs, targets: size * loss(outputs, targets))
    for ours, reference in zip(scaled.paths[0].points, plain.paths[0].points, strict=True):
        assert ours.norm == pytest.approx(size * reference.norm, rel=1e-9)
    assert scaled.ratio == pytest.approx(plain.ratio, rel=1e-9)


@pytest.mark.parametrize("size", [1e-18, 1e-20, 1e-21, 1e-24, 1e18, 1e24])
def test_norms_hold_in_float32_where_squares_leave_its_range(size: float) -> None:
    model = mlp(nn.Tanh)
    x, y = batch()
    loss = nn.functional.cross_entropy
    plain = probe(model, x, y, loss=loss)
    scaled = probe(model, x, y, loss=lambda outputs, targets: size * loss(outputs, targets))
    assert scaled.verdict == "healthy"
    for ours, reference in zip(scaled.paths[0].points, plain.paths[0].points, strict=True):
        assert ours.norm == pytest.approx(size * reference.norm, rel=1e-4)


class Functional(nn.Module):
    """A deep net of width 1024 with weights of variance sw2 / fan-in, as theory has it."""

    def __init__(self, phi: Callable[[Tensor], Tensor], sw2: float, sb2: float, depth: int) -> None:
        super().__init__()
        self.phi = phi
        layers = (nn.Linear(1024, 1024, device="meta") for _ in range(depth))
        self.layers = nn.ModuleList(layer.to_empty(device="cpu") for layer in layers)
        for layer in self.layers.children():
            assert isinstance(layer, nn.Linear)
            nn.init.normal_(layer.weight, std=math.sqrt(sw2 / 1024))
            nn.init.normal_(layer.bias, std=math.sqrt(sb2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(self.phi(x))
        return x


def mean_field_rate(
    phi: Callable[[Tensor], Tensor], sw2: float, sb2: float, depth: int, q: float = 1.0
) -> float:
    """Geometric mean over the layers of sqrt(chi), by numerical integration.

    q_l = sw2 E[phi(sqrt(q_{l-1}) Z)^2] + sb2 and chi_l = sw2 E[phi'(sqrt(q_l) Z)^2]
    (Poole et al. 2016, Schoenholz et al. 2017).
    """
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    weight = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    log_rate = 0.0
    for layer in range(depth):
        if layer:
            x = (math.sqrt(q) * z).requires_grad_()
            (slope,) = torch.autograd.grad(phi(x).sum(), x)
            log_rate += 0.5 * math.log(sw2 * float((weight * slope**2).sum()))
        q = sw2 * float((weight * phi(math.sqrt(q) * z) ** 2).sum()) + sb2
    return math.exp(log_rate / (depth - 1))


def test_the_oracle_knows_the_closed_forms() -> None:
    assert mean_field_rate(torch.relu, 1 / 3, 0.0, 10) == pytest.approx(0.40825, rel=1e-4)
    assert mean_field_rate(lambda x: x, 0.81, 0.0, 10) == pytest.approx(0.9, rel=1e-6)
    assert mean_field_rate(torch.sigmoid, 1 / 3, 1 / 3072, 30) == pytest.approx(0.14144, rel=1e-3)


@pytest.mark.parametrize(
    ("phi", "sw2", "sb2"),
    [
        pytest.param(torch.relu, 2.0, 0.0, id="relu, He"),
        pytest.param(torch.tanh, 0.8, 0.05, id="tanh, ordered"),
        pytest.param(torch.sigmoid, 1 / 3, 1 / 3072, id="sigmoid, default"),
    ],
)
def test_mean_field_rates_within_half_a_percent_per_layer(
    phi: Callable[[Tensor], Tensor], sw2: float, sb2: float
) -> None:
    x = torch.randn(8, 1024, generator=torch.Generator().manual_seed(1))
    diagnosis = probe(
        lambda: Functional(phi, sw2, sb2, depth=30),
        x,
        seeds=[0, 1, 2],
        min_ratio=1e-300,
        confirm_steps=0,
        select=["GH101"],
    )
    rates = [math.log(profile.paths[0].rate) for profile in diagnosis.profiles]
    assert len(rates) == 3
    expected = mean_field_rate(phi, sw2, sb2, depth=30)
    assert math.exp(sum(rates) / 3) == pytest.approx(expected, rel=0.005)

"""An initialisation that has changed is told from another draw of the same."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth.baseline.initialisation import initialisation_changes, settled
from pytest_gradhealth.measure.distribution import distributions
from pytest_gradhealth.results.weights import WeightRecord

SEEDS = 200


class Parts(nn.Module):
    """A layer of every kind, with the initialisations that libraries use."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.conv = nn.Linear(20, 30), nn.Conv2d(3, 8, 3)
        self.norm, self.embedding = nn.LayerNorm(30), nn.Embedding(50, 16, padding_idx=0)
        self.lstm, self.attention = nn.LSTM(8, 8), nn.MultiheadAttention(16, 2)
        self.small, self.few = nn.Linear(4, 4), nn.Linear(2, 3)
        for kind in ("xavier_normal_", "kaiming_uniform_", "orthogonal_", "trunc_normal_"):
            weight = nn.Parameter(torch.empty(24, 24))
            getattr(nn.init, kind)(weight)
            self.register_parameter(kind.strip("_"), weight)
        self.sparse = nn.Parameter(nn.init.sparse_(torch.empty(40, 40), 0.9))
        self.zero, self.one = nn.Parameter(torch.zeros(20)), nn.Parameter(torch.ones(20))
        self.ramp = nn.Parameter(torch.linspace(0, 1, 32))
        self.scale, self.shift = nn.Parameter(torch.tensor(2.65)), nn.Parameter(torch.randn(()))
        self.phases = nn.Parameter(torch.randn(6, dtype=torch.complex64))
        self.heavy = nn.Parameter(torch.distributions.StudentT(5.0).sample((500,)))
        self.log_uniform = nn.Parameter(torch.exp(torch.rand(300) * math.log(1e3)))


def drawn(seed: int, make: Callable[[], nn.Module] = Parts) -> tuple[WeightRecord, ...]:
    torch.manual_seed(seed)
    return tuple(record.short() for record in distributions(make()))


def test_no_other_seed_is_another_initialisation() -> None:
    first = drawn(0)
    assert len(first) > 25
    for seed in range(1, SEEDS):
        other = drawn(seed)
        assert [change.message for change in initialisation_changes(first, other)] == [], seed
        assert settled(first, other) == first


def changed(change: Callable[[nn.Module], object]) -> list[str]:
    def make() -> nn.Module:
        model = Parts()
        with torch.no_grad():
            change(model)
        return model

    messages = [c.message for c in initialisation_changes(drawn(0), drawn(1, make))]
    assert all(c.fails == "regression" for c in initialisation_changes(drawn(0), drawn(1, make)))
    return messages


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda m: nn.init.ones_(m.ramp),
            "ramp is initialised otherwise: all its elements are alike, and were not",
        ),
        (
            lambda m: nn.init.zeros_(m.linear.weight),
            "linear.weight is initialised otherwise: it is all zeros, and was not",
        ),
        (
            lambda m: nn.init.uniform_(m.zero),
            "zero is initialised otherwise: it is not zero, and was",
        ),
        (
            lambda m: nn.init.normal_(m.one, 1.0, 0.02),
            "one is initialised otherwise: its elements differ, and were alike",
        ),
        (
            lambda m: nn.init.constant_(m.norm.weight, 0.5),
            "norm.weight is initialised otherwise: its mean is 0.5, and was 1",
        ),
        (
            lambda m: m.embedding.weight.mul_(0.02),
            "embedding.weight is initialised otherwise: its standard deviation is 0.02, and was"
            " 0.98",
        ),
        (
            lambda m: m.linear.weight.mul_(1.5),
            "linear.weight is initialised otherwise: its standard deviation is 0.19, and was 0.13",
        ),
        (
            lambda m: m.linear.weight.add_(0.1),
            "linear.weight is initialised otherwise: its mean is 0.1, and was -0.0015",
        ),
        (
            lambda m: m.sparse.copy_(nn.init.sparse_(torch.empty(40, 40), 0.5) * 0.45),
            "sparse is initialised otherwise: 50.00% of it are zeros, and 90.00% were",
        ),
    ],
)
def test_another_initialisation_is_told(change: Callable[[nn.Module], object], said: str) -> None:
    assert changed(change) == [said]


def test_a_parameter_of_another_size_or_name_is_another() -> None:
    wide = drawn(0, lambda: nn.Linear(20, 300))
    assert [*initialisation_changes(drawn(0, lambda: nn.Linear(20, 30)), wide)] == []
    assert [*initialisation_changes(drawn(0), wide)] == []


def test_the_moments_are_those_of_the_elements() -> None:
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 1.0, 5.0]]))
    (record,) = distributions(model)
    assert (record.name, record.elements, record.mean) == ("weight", 3, 2.0)
    assert record.std == pytest.approx(math.sqrt(14 / 3))
    assert record.zeros == pytest.approx(1 / 3)
    assert record.kurtosis == pytest.approx((16 + 1 + 81) / 3 / (14 / 3) ** 2)


def row() -> Tensor:
    return torch.randn(1, 40).repeat(100, 1)


def experts() -> Tensor:
    return torch.randn(1, 24, 24).repeat(16, 1, 1) / 5


def inflated() -> Tensor:
    return (torch.randn(8, 3, 1, 5, 5) / 9).repeat(1, 1, 4, 1, 1)


def rare() -> Tensor:
    return torch.bernoulli(torch.full((200,), 0.02))


@pytest.mark.parametrize("make", [row, experts, inflated, rare])
def test_copies_and_rare_ones_are_drawn_as_seldom_as_they_are(make: Callable[[], Tensor]) -> None:
    def made() -> nn.Module:
        model = nn.Module()
        model.weight = nn.Parameter(make())
        return model

    known = drawn(0, made)
    assert [
        change
        for seed in range(1, 201)
        for change in initialisation_changes(known, drawn(seed, made))
    ] == []

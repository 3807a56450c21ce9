"""Layers are asleep that zeros go through, and gradient past them; not those that train nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pytest_gradhealth import probe
from tests.helpers.findings import severities
from tests.helpers.spikes import Spike

X, Y = torch.randn(16, 6), torch.randint(4, (16,))


class Silent(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return Spike.apply(x - 99)


class Adapter(nn.Module):
    """A frozen layer and an update of low rank that is zero on both sides."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.a = nn.Parameter(torch.zeros(inputs, 2))
        self.b = nn.Parameter(torch.zeros(2, outputs))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + x @ self.a @ self.b
        return out


def asleep(*layers: nn.Module) -> list[str]:
    diagnosis = probe(nn.Sequential(*layers), X, Y, loss=cross_entropy, confirm_steps=0)
    return [point.label for point in diagnosis.profile.asleep]


def test_what_a_surrogate_gets_past_is_asleep_and_all_that_gets_zeros_of_it() -> None:
    layers = nn.Linear(6, 8), Silent(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4)
    assert asleep(*layers) == ["1", "2"]


def test_what_is_dead_is_not() -> None:
    dead = nn.Linear(6, 8)
    nn.init.constant_(dead.bias, -99.0)
    assert asleep(dead, nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)) == []


class Ones(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.detach() + 1


def test_nor_is_a_layer_whose_bias_makes_zeros() -> None:
    zeros = nn.Linear(8, 8)
    nn.init.constant_(zeros.weight, 0.125)
    nn.init.constant_(zeros.bias, -1.0)
    assert asleep(nn.Linear(6, 8), Ones(), zeros, nn.Linear(8, 4)) == []


def test_nor_are_updates_that_are_zero_on_both_sides() -> None:
    model = nn.Sequential(Adapter(6, 8), nn.ReLU(), Adapter(8, 4))
    diagnosis = probe(model, X, Y, loss=cross_entropy, confirm_steps=0)
    assert diagnosis.profile.asleep == ()
    assert severities(diagnosis, "GH401") == ["failure"]


def test_nor_is_what_has_been_rounded_to_zero() -> None:
    layers: list[nn.Module] = [nn.Linear(6, 8, bias=False)]
    for _ in range(18):
        layers += [nn.Tanh(), nn.Linear(8, 8, bias=False)]
    for layer in layers[::2]:
        nn.init.normal_(layer.weight, std=1e-3)  # type: ignore[arg-type]
    assert asleep(*layers, nn.Linear(8, 4)) == []

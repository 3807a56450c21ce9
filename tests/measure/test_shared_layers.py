"""A layer that is called before and behind others: its last call says nothing of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pytest_gradhealth import probe
from tests.helpers.findings import codes

WIDTH, CLASSES = 10, 4
DRAWN = torch.Generator().manual_seed(0)
X, Y = torch.randn(32, WIDTH, generator=DRAWN), torch.arange(32) % CLASSES


class Between(nn.Module):
    """Layers between two calls of one, with a branch beside them all."""

    def __init__(self, layers: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shared, self.beside = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        blocks = [nn.Sequential(nn.Linear(WIDTH, WIDTH), activation()) for _ in range(layers)]
        self.deep, self.head = nn.Sequential(*blocks), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        state = self.shared(self.deep(self.shared(x)))
        out: Tensor = self.head(state + self.beside(x.flip(0)))
        return out


class InTurns(Between):
    """One layer behind each of the others, as a norm or a block that layers have in common."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.deep:
            x = layer(self.shared(x))
        out: Tensor = self.head(x)
        return out


@pytest.mark.parametrize("made", [Between, InTurns])
def test_layers_between_two_calls_are_depth(made: type[Between]) -> None:
    sick = probe(made(14, nn.Sigmoid), X, Y, loss=cross_entropy, select=["GH101"])
    assert codes(sick) == ["GH101"]
    (first, *_) = (path for path in sick.profile.judged_paths if path.first.name == "shared")
    assert first.entry.norm < 1e-10


@pytest.mark.parametrize("made", [Between, InTurns])
def test_those_that_let_the_gradient_through_are_healthy(made: type[Between]) -> None:
    cured = probe(made(6, nn.Identity), X, Y, loss=cross_entropy, select=["GH101"])
    assert codes(cured) == codes(cured, "warning") == []

"""A token before a sequence that layers read from near by: what is far from it forgets it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, pad

from pytest_gradhealth import probe
from tests.helpers.architectures import Wired
from tests.helpers.findings import codes

EXAMPLES, STEPS, WIDTH, CLASSES = 16, 32, 16, 2
DRAWN = torch.Generator().manual_seed(0)
CONTEXT = torch.randn(EXAMPLES, 8, generator=DRAWN)
DATA = torch.randn(EXAMPLES, STEPS, 6, generator=DRAWN)
Y = torch.arange(EXAMPLES) % CLASSES


class Local(nn.Module):
    """Attention over a few steps before each, or a convolution of these."""

    def __init__(self, *, attends: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.read: nn.Module = (
            nn.Linear(WIDTH, 3 * WIDTH) if attends else nn.Conv1d(WIDTH, WIDTH, 5)
        )
        self.write = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.write(self.near(x))  # type: ignore[no-any-return]

    def near(self, x: Tensor) -> Tensor:
        if isinstance(self.read, nn.Conv1d):
            return gelu(self.read(pad(x.mT, (4, 0))).mT)
        query, key, value = self.read(self.norm(x)).chunk(3, -1)
        places = torch.arange(x.shape[1])
        back = places[:, None] - places
        weights = (query @ key.mT / 4).masked_fill((back < 0) | (back > 4), -1e9).softmax(-1)
        return weights @ value  # type: ignore[no-any-return]


class Prefixed(nn.Module):
    """What an encoder makes comes before the data; the last step is read."""

    def __init__(self, blocks: Callable[[], nn.Module], *, tied: bool, before: Any = None) -> None:
        super().__init__()
        self.begin = nn.Sequential(nn.Linear(8, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))
        self.data, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.before = nn.Linear(WIDTH, WIDTH)
        first = blocks()
        self.blocks = nn.ModuleList(first if tied else blocks() for _ in range(8))
        self.change = before

    def forward(self, context: Tensor, data: Tensor) -> Tensor:
        first = self.begin(context)
        for _ in range(15 * (self.change is not None)):
            first = self.change(self, first)
        x = torch.cat([first[:, None], self.data(data)], 1)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(x[:, -1])
        return out


def judged(model: nn.Module) -> list[str]:
    torch.manual_seed(0)
    given = (CONTEXT, DATA)
    return codes(probe(model, given, Y, loss=cross_entropy, select=["GH101"], confirm_steps=0))


@pytest.mark.parametrize("attends", [True, False], ids=["attention", "convolution"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_what_a_local_layer_forgets_is_no_depth(*, attends: bool, tied: bool) -> None:
    torch.manual_seed(0)
    assert judged(Prefixed(lambda: Local(attends=attends), tied=tied)) == []


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_nor_is_what_bare_convolutions_forget(*, tied: bool) -> None:
    """So many of them that the last step just sees the token, by one way of 3 to the 12th."""

    def run(m: Any, context: Tensor, data: Tensor) -> Tensor:
        x = torch.cat([m.begin(context)[:, None], m.data(data[:, :24])], 1).mT
        for layer in m.layers:
            x = x + gelu(layer(pad(x, (2, 0))))
        out: Tensor = m.head(x[..., -1])
        return out

    torch.manual_seed(5)
    layer = nn.Conv1d(WIDTH, WIDTH, 3)
    layers = [layer if tied else nn.Conv1d(WIDTH, WIDTH, 3) for _ in range(12)]
    begin = nn.Sequential(nn.Linear(8, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))
    ends = {"data": nn.Linear(6, WIDTH), "head": nn.Linear(WIDTH, CLASSES)}
    assert judged(Wired(run, begin=begin, layers=nn.ModuleList(layers), **ends)) == []


@pytest.mark.parametrize("attends", [True, False], ids=["attention", "convolution"])
def test_a_tied_layer_before_that_loses_it_is_deep(*, attends: bool) -> None:
    torch.manual_seed(0)
    model = Prefixed(
        lambda: Local(attends=attends), tied=True, before=lambda m, x: m.before(x).sigmoid()
    )
    assert judged(model) == ["GH101"]


class Squashed(nn.Module):
    """Steps apart from each other, with nothing to get round a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        deep = x
        for _ in range(2):
            deep = self.layer(deep).sigmoid()
        return deep + 0.5 * x[:, :1].mean(1, keepdim=True).detach()


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_deep_sigmoids_over_a_sequence_are_deep(*, tied: bool) -> None:
    torch.manual_seed(0)
    assert "GH101" in judged(Prefixed(Squashed, tied=tied))

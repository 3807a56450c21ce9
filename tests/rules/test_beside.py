"""Growth and loss in layers beside a path are theirs, not those of the layer behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import probe
from tests.helpers.architectures import Wired
from tests.helpers.findings import explained
from tests.helpers.nets import total


class Residual(nn.Module):
    """A branch that is called again and again beside the path, between two layers."""

    def __init__(self, std: float, head: float = 1.0) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        nn.init.normal_(self.branch.weight, std=std)
        nn.init.normal_(self.head.weight, std=head)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for _ in range(16):
            h = h + F.relu(self.branch(h))
        out: Tensor = self.head(h)
        return out


def test_growth_in_branches_is_theirs() -> None:
    torch.manual_seed(0)
    diagnosis = probe(Residual(0.7), torch.randn(32, 8), loss=total, confirm_steps=0)
    assert explained(diagnosis, "GH201")[1:] == (
        "most of it is gained beside the path, between head and stem: x2.2 in each of 16 calls of"
        " branch",
        "smaller initial weights in branch (a tenth, say), or a normalisation layer before each"
        " call",
    )


def test_growth_in_the_layer_behind_them_is_not() -> None:
    torch.manual_seed(0)
    model = Residual(0.01, head=3e3)
    diagnosis = probe(model, torch.randn(32, 8), loss=lambda y: y.square().mean(), confirm_steps=0)
    assert "beside" not in explained(diagnosis, "GH201")[1]


def blocks(step: Callable[[nn.Module, Tensor], Tensor], std: float, count: int = 16) -> nn.Module:
    """A stream of 32 units that layers add to, or multiply, one after the other."""
    torch.manual_seed(0)
    layers = [nn.Linear(32, 32) for _ in range(count)]
    for layer in layers:
        nn.init.normal_(layer.weight, std=std)

    def use(m: Any, x: Tensor) -> Tensor:
        h: Tensor = m.stem(x)
        for layer in m.layers:
            h = step(layer, h)
        out: Tensor = m.head(h)
        return out

    parts = {"stem": nn.Linear(8, 32), "layers": nn.ModuleList(layers), "head": nn.Linear(32, 3)}
    return Wired(use, **parts)


LAYERS = "layers.0, layers.1, layers.2, layers.3 and 12 more"


@pytest.mark.parametrize(
    ("step", "std", "code", "changed"),
    [
        (lambda layer, h: h + h + layer(h), 1e-3, "GH201", "gained between head and stem: x2"),
        (lambda layer, h: h + h + layer(h), 1e-6, "GH201", "gained between head and stem: x2"),
        (lambda layer, h: 2 * h + layer(h), 0.05, "GH201", "gained between head and stem: x2"),
        (lambda layer, h: 0.3 * h + layer(h), 1e-3, "GH101", "lost between head and stem: x0.3"),
    ],
    ids=["doubled", "doubled past nothing", "times two", "damped"],
)
def test_what_multiplies_a_stream_is_not_put_down_to_the_weights_beside_it(
    step: Callable[[nn.Module, Tensor], Tensor], std: float, code: str, changed: str
) -> None:
    """With a thousandth of the weights, it would be the same."""
    model = blocks(step, std)
    diagnosis = probe(model, torch.randn(64, 8), loss=total, confirm_steps=0)
    assert explained(diagnosis, code)[1:] == (
        f"most of it is {changed} in each of 16 calls of {LAYERS}",
        "look at what multiplies the output of stem on its way past them (a factor, a gate), and at"
        " their weights",
    )


@pytest.mark.parametrize("std", [0.3, 0.5, 1.0])
def test_weights_that_smaller_ones_cure_are_the_cause(std: float) -> None:
    x = torch.randn(64, 8)
    because, advice = explained(
        probe(blocks(lambda layer, h: h + layer(h), std), x, loss=total, confirm_steps=0), "GH201"
    )[1:]
    assert "gained beside the path, between head and stem" in because
    assert advice.startswith("smaller initial weights in layers.0")
    cured = blocks(lambda layer, h: h + layer(h), std / 10)
    assert probe(cured, x, loss=total, confirm_steps=0).verdict == "healthy"


def test_layers_in_a_row_beside_a_faint_shortcut_add_to_no_sum() -> None:
    torch.manual_seed(0)
    deep = nn.Sequential(*(part for _ in range(10) for part in (nn.Linear(32, 32), nn.Sigmoid())))
    model = Wired(
        lambda m, x: m.head(m.deep(h := m.stem(x)) + 1e-7 * h),
        stem=nn.Linear(8, 32),
        deep=deep,
        head=nn.Linear(32, 3),
    )
    diagnosis = probe(model, torch.randn(64, 8), loss=total, confirm_steps=0)
    assert explained(diagnosis, "GH101")[1:] == (
        "most of it is lost between head and stem, on all ways: x0.14 in each of 10 calls of"
        " deep.0, deep.2, deep.4, deep.6 and 6 more, one behind the other",
        "a larger share of what goes past them, or other activations, initial weights or a"
        " normalisation layer in them",
    )


def test_heads_side_by_side_are_no_chain() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(8, 8)
            self.one, self.other, self.last = (nn.Linear(8, 8) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            h = self.stem(x)
            out: Tensor = self.last(1e5 * self.one(h) + self.other(h))
            return out

    diagnosis = probe(Heads(), torch.randn(32, 8), loss=total, confirm_steps=0)
    assert "beside" not in explained(diagnosis, "GH201")[1]

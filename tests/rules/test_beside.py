"""Growth and loss in layers beside a path are theirs, not those of the layer behind them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import probe
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

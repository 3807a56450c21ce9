"""What a scale or a silence holds back, and no depth, is looked at again after many steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import Diagnosis, probe
from pytest_gradhealth.probing.second_look import falls_steeply
from pytest_gradhealth.results.path import GradientPath, PathPoint
from tests.helpers.findings import codes, of
from tests.helpers.nets import batch, mlp
from tests.helpers.spikes import Spike

IDS = torch.randint(0, 12, (64, 4), generator=torch.Generator().manual_seed(3))
CLICKS = (IDS.sum(1) % 2).float().unsqueeze(1)
clicked = F.binary_cross_entropy_with_logits


class Times(nn.Module):
    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return one * other


class Product(nn.Module):
    """Embeddings that are multiplied, in the ways that factorised models do."""

    def __init__(self, way: str, size: float, factors: int = 4) -> None:
        super().__init__()
        self.way = way
        self.factors = nn.ModuleList(nn.Embedding(12, 6) for _ in range(factors))
        self.times = nn.ModuleList(Times() for _ in range(factors - 1))
        self.head = None if way in ("sum", "core") else mlp(hidden=1, inputs=6, width=8, classes=1)
        self.core = nn.Parameter(size * torch.randn(6, 6, 6)) if way == "core" else None
        for factor in self.factors:
            nn.init.normal_(factor.weight, std=size)  # type: ignore[arg-type]

    def forward(self, ids: Tensor) -> Tensor:
        one, *others = (factor(ids[:, i]) for i, factor in enumerate(self.factors))
        if self.core is not None:  # Tucker's decomposition
            return torch.einsum("bi,bj,bk,ijk->b", one, *others, self.core).unsqueeze(1)
        for other, times in zip(others, self.times, strict=True):
            one = times(one, other) if self.way == "modules" else one * other
        answer: Tensor = one.sum(1, keepdim=True) if self.head is None else self.head(one)
        return answer


PRODUCTS = {
    "sum": partial(Product, "sum", 1e-2),
    "head": partial(Product, "head", 1e-2),
    "head of three": partial(Product, "head", 1e-4, 3),
    "modules": partial(Product, "modules", 1e-2),
    "core": partial(Product, "core", 1e-3, 3),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_of_small_factors_train_with_adam(name: str) -> None:
    torch.manual_seed(0)
    diagnosis = probe(PRODUCTS[name](), IDS, CLICKS, loss=clicked)
    assert diagnosis.verdict == "healthy", diagnosis
    assert [look.steps for look in diagnosis.profiles] == [0, 150]
    assert min(path.vanishing for path in diagnosis.profiles[0].paths) < -5


@pytest.mark.parametrize("name", ["sum", "core"])
def test_products_of_small_factors_train_with_adagrad_and_not_with_sgd(name: str) -> None:
    torch.manual_seed(0)
    model = PRODUCTS[name]()
    ask = partial(probe, model, IDS, CLICKS, loss=clicked)
    assert ask(optimizer=torch.optim.Adagrad).verdict == "healthy"
    still = ask(optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    (finding,) = of(still, "GH101")
    assert (finding.severity, still.profiles[-1].steps) == ("failure", 150)
    words = " ".join(str(still).split())
    assert "looked at again after 150 steps of SGD(lr=0.1)" in words
    assert "small factors are multiplied" in words
    assert "optimizer whose steps do not shrink with the gradient (Adam, Adagrad)" in words


class Chain(nn.Sequential):
    """Layers that all start with normal weights of one size, and no bias."""

    def __init__(self, activation: Callable[[], nn.Module], depth: int, size: float) -> None:
        super().__init__(*mlp(activation, hidden=depth, width=16))
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=size)
                nn.init.zeros_(layer.bias)


@pytest.mark.parametrize(
    "build",
    [
        lambda: mlp(nn.Sigmoid, hidden=10),
        lambda: Chain(nn.ReLU, 30, 0.1),
        lambda: mlp(partial(nn.Softmax, -1), hidden=3, width=128),
    ],
    ids=["sigmoids", "ReLU", "softmax between the layers"],
)
def test_what_depth_or_flat_functions_lose_gets_no_more_steps(build: Any) -> None:
    torch.manual_seed(0)
    diagnosis = probe(build(), *batch(64), loss=F.cross_entropy)
    assert "GH101" in codes(diagnosis)
    assert diagnosis.verdict == "failure"
    assert [look.steps for look in diagnosis.profiles] == [0, 5]


def path(*norms: float, leaf: str = "Linear") -> GradientPath:
    points = [PathPoint(f"{i}", leaf, (1,), norm=n, numel=1) for i, n in enumerate(norms)]
    return GradientPath(tuple(points), points[0])


def test_few_steep_steps_are_a_scale_and_many_are_layers() -> None:
    assert falls_steeply(path(1e-8, 1.0))
    assert falls_steeply(path(1e-8, 1e-6, 1e-4, 1e-2, 1.0))
    assert not falls_steeply(path(1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 1.0))
    assert not falls_steeply(path(*(10.0**-i for i in range(8, -1, -1))))
    assert not falls_steeply(path(1e-8, 1.0, leaf="Sigmoid"))
    assert not falls_steeply(path(1e8, 1.0))


class Neurons(nn.Module):
    """Neurons that leak half of their potential at each of two steps."""

    def forward(self, currents: Tensor) -> Tensor:
        potential, spikes = torch.zeros_like(currents[0]), []
        for current in currents:
            potential = (potential + current) / 2
            spiked: Tensor = Spike.apply(potential - 1)
            potential = potential * (1 - spiked.detach())
            spikes.append(spiked)
        return torch.stack(spikes)


class Spiking(nn.Sequential):
    def __init__(self, depth: int) -> None:
        widths = [20, *[32] * depth]
        layers = [m for i, o in pairwise(widths) for m in (nn.Linear(i, o), Neurons())]
        super().__init__(*layers, nn.Linear(32, 5))

    def forward(self, x: Tensor) -> Tensor:
        votes: Tensor = super().forward(x.expand(2, *x.shape))  # type: ignore[no-untyped-call]
        return votes.mean(0)


def looked_at(depth: int) -> Diagnosis:
    torch.manual_seed(0)
    x, _ = batch(32)
    return probe(Spiking(depth), x / 2, x[:, :5].argmax(1), loss=F.cross_entropy)


@pytest.mark.parametrize(("depth", "steps"), [(1, 150), (2, 300)])
def test_silent_neurons_that_wake_layer_after_layer_are_healthy(depth: int, steps: int) -> None:
    diagnosis = looked_at(depth)
    assert diagnosis.verdict == "healthy", diagnosis
    assert [look.steps for look in diagnosis.profiles] == [0, steps]


def test_silent_neurons_of_which_none_wakes_fail() -> None:
    diagnosis = looked_at(6)
    assert "GH101" in codes(diagnosis)
    assert [look.steps for look in diagnosis.profiles] == [0, 150]


def test_dead_units_are_not_asleep() -> None:
    model = mlp(hidden=2)
    nn.init.constant_(model[2].bias, -100.0)  # type: ignore[arg-type]
    diagnosis = probe(model, *batch(), loss=F.cross_entropy)
    assert diagnosis.verdict == "failure"
    assert [look.steps for look in diagnosis.profiles] == [0, 5]

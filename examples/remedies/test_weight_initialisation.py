"""Weight initialisation: every layer multiplies the gradient by the size of its weights.

Ten weights of 10 in a row make 10**10, ten of 0.1 make 10**-10; a layer of n such weights counts
sqrt(n) times as much, or sqrt(n / 2) with a ReLU that closes half of them. He's variance 2 / fan_in
makes that factor one for ReLU, Xavier's 2 / (fan_in + fan_out) for tanh, and an orthogonal matrix
keeps every length exactly. None of them saves sigmoids, whose slope of 1/4 asks for weights four
times as large: ten of them with Xavier's weights still vanish, as measured below.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from examples.mnist.models import DeepClassifier, he
from examples.remedies.pair import (
    EXPLODING,
    SEEDS,
    VANISHING,
    Pair,
    Recipe,
    Trained,
    adam,
    sgd,
    show,
)
from pytest_gradhealth import ExplodingGradientError, GradHealth, VanishingGradientError

Batch = tuple[Tensor, Tensor]

small = partial(nn.init.normal_, std=0.01)
large = partial(nn.init.normal_, std=10.0)
xavier = nn.init.xavier_normal_
orthogonal = nn.init.orthogonal_
orthogonal_for_relu = partial(nn.init.orthogonal_, gain=math.sqrt(2))

relu = partial(DeepClassifier, nn.ReLU, depth=10, width=64)
tanh = partial(DeepClassifier, nn.Tanh, depth=10, width=64)
deep_tanh = partial(DeepClassifier, nn.Tanh, depth=30, width=64)
heavy_sgd = sgd(0.02, momentum=0.9)

HE = Recipe("10 ReLUs, He's weights", partial(relu, weights=he), adam(1e-3))
SMALL = Recipe("10 ReLUs, weights of 0.01", partial(relu, weights=small), adam(1e-3))
LARGE = Recipe("10 ReLUs, weights of 10", partial(relu, weights=large), adam(1e-3))
SMALL_TANH = Recipe("10 tanhs, weights of 0.01", partial(tanh, weights=small), heavy_sgd)
DEEP_TANH = Recipe("30 tanhs, PyTorch's weights", deep_tanh, adam(5e-4))
XAVIER_SIGMOID = Recipe(
    "10 sigmoids, Xavier's weights",
    partial(DeepClassifier, nn.Sigmoid, depth=10, width=64, weights=xavier),
    adam(1e-3),
)

PAIRS = (
    Pair("Kaiming initialisation", VANISHING, SMALL, HE),
    Pair("Kaiming initialisation", EXPLODING, LARGE, HE),
    Pair(
        "orthogonal initialisation",
        VANISHING,
        SMALL,
        Recipe(
            "10 ReLUs, orthogonal weights", partial(relu, weights=orthogonal_for_relu), adam(1e-3)
        ),
    ),
    Pair(
        "Xavier initialisation",
        VANISHING,
        SMALL_TANH,
        Recipe("10 tanhs, Xavier's weights", partial(tanh, weights=xavier), heavy_sgd),
    ),
    Pair(
        "orthogonal initialisation",
        VANISHING,
        DEEP_TANH,
        Recipe("30 tanhs, orthogonal weights", partial(deep_tanh, weights=orthogonal), adam(5e-4)),
    ),
)
each_pair = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.cured.what)


@pytest.mark.xfail(strict=True, raises=VanishingGradientError, reason="weights too small")
@pytest.mark.parametrize("recipe", [SMALL, SMALL_TANH, DEEP_TANH], ids=lambda recipe: recipe.what)
def test_too_small(gradhealth: GradHealth, batch: Batch, recipe: Recipe) -> None:
    """Each layer shrinks the gradient, and the first one gets nothing."""
    gradhealth.assert_no_vanishing(recipe.model, *batch, loss=cross_entropy, seeds=SEEDS)


@pytest.mark.xfail(strict=True, raises=ExplodingGradientError, reason="weights of 10")
def test_too_large(gradhealth: GradHealth, batch: Batch) -> None:
    """Each layer multiplies the gradient by 10 * sqrt(64 / 2) = 57."""
    gradhealth.assert_no_exploding(LARGE.model, *batch, loss=cross_entropy, seeds=SEEDS)


@pytest.mark.xfail(strict=True, raises=VanishingGradientError, reason="Xavier, but sigmoids")
def test_xavier_does_not_save_sigmoids(gradhealth: GradHealth, batch: Batch) -> None:
    """Xavier's weights are a hundred times better than the default, and not nearly enough."""
    gradhealth.assert_no_vanishing(XAVIER_SIGMOID.model, *batch, loss=cross_entropy, seeds=SEEDS)


@each_pair
def test_cured(gradhealth: GradHealth, batch: Batch, pair: Pair) -> None:
    """The weights made for the activation keep the gradient level."""
    model = pair.cured.model
    gradhealth.assert_no_vanishing(model, *batch, loss=cross_entropy, seeds=SEEDS)
    gradhealth.assert_no_exploding(model, *batch, loss=cross_entropy, seeds=SEEDS)


@each_pair
def test_only_the_cured_learns(train: Callable[[Recipe], Trained], pair: Pair) -> None:
    """The same steps; weights of 10 leave Adam alive, at a loss of 10**16."""
    assert train(pair.sick).failed
    assert train(pair.cured).learned


def test_xavier_sigmoids_do_not_learn(train: Callable[[Recipe], Trained]) -> None:
    """Training agrees with the linter."""
    assert train(XAVIER_SIGMOID).failed


if __name__ == "__main__":
    show(*PAIRS)

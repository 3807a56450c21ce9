"""Weight initialisation: every layer multiplies the gradient by the size of its weights.

Ten weights of 10 in a row make 10**10, ten of 0.1 make 10**-10; a layer of n such weights counts
sqrt(n) times as much, or sqrt(n / 2) with a ReLU that closes half of them. He's variance 2 / fan_in
makes that factor one for ReLU, Xavier's 2 / (fan_in + fan_out) for tanh, and an orthogonal matrix
keeps every length exactly. None of them saves sigmoids, whose slope of 1/4 asks for weights four
times as large: ten of them with Xavier's weights still vanish, as measured below.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from examples.remedies.pair import SEEDS, Recipe, Trained, adam, show
from examples.remedies.pairs import (
    DEEP_TANH,
    LARGE,
    SMALL,
    SMALL_TANH,
    WEIGHT_INITIALISATION,
    ten,
    xavier,
)
from pytest_gradhealth import ExplodingGradientError, GradHealth, VanishingGradientError

Batch = tuple[Tensor, Tensor]

XAVIER_SIGMOID = Recipe(
    "10 sigmoids, Xavier's weights", partial(ten, nn.Sigmoid, weights=xavier), adam(1e-3)
)


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


def test_xavier_sigmoids_do_not_learn(train: Callable[[Recipe], Trained]) -> None:
    """Training agrees with the linter."""
    assert train(XAVIER_SIGMOID).failed


if __name__ == "__main__":
    show(*WEIGHT_INITIALISATION)

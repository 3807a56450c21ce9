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

from torch import nn

from examples.remedies.pair import EXPLODING, VANISHING, Recipe, Trained, adam, rejected, show
from examples.remedies.pairs import (
    DEEP_TANH,
    LARGE,
    SMALL,
    SMALL_TANH,
    WEIGHT_INITIALISATION,
    ten,
    xavier,
)

XAVIER_SIGMOID = Recipe(
    "10 sigmoids, Xavier's weights", partial(ten, nn.Sigmoid, weights=xavier), adam(1e-3)
)


test_too_small = rejected(SMALL, VANISHING, "the first of ten layers gets nothing")
test_too_small_for_tanh = rejected(SMALL_TANH, VANISHING, "the first of ten layers gets nothing")
test_default_and_deep = rejected(DEEP_TANH, VANISHING, "thirty layers shrink the gradient")
test_too_large = rejected(LARGE, EXPLODING, "each layer multiplies by 10 * sqrt(64 / 2) = 57")
test_xavier_does_not_save_sigmoids = rejected(
    XAVIER_SIGMOID, VANISHING, "a hundred times better than the default, and not nearly enough"
)


def test_xavier_sigmoids_do_not_learn(train: Callable[[Recipe], Trained]) -> None:
    """Training agrees with the linter."""
    assert train(XAVIER_SIGMOID).failed


if __name__ == "__main__":
    show(*WEIGHT_INITIALISATION)

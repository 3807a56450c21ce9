"""Activation functions: a slope of at most 1/4 per layer starves the first layers.

A sigmoid's slope is sigma' = sigma * (1 - sigma) <= 1/4, so ten of them let at most 0.25**10, a
millionth, of the gradient pass. Tanh has slope 1 at zero and lives longer: with PyTorch's default
weights each layer keeps 1/sqrt(3) of the gradient, which takes some twenty layers to vanish. ReLU
and its relatives have slope 1 on their open side, and with the weights made for them, the variance
2 / fan_in for ReLU, LeakyReLU and GELU and 1 / fan_in for SELU, the gradient arrives.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from examples.mnist.models import DeepClassifier, he
from examples.remedies.pair import SEEDS, VANISHING, Pair, Recipe, Trained, adam, show
from pytest_gradhealth import GradHealth, VanishingGradientError

Batch = tuple[Tensor, Tensor]

leaky_he = partial(nn.init.kaiming_normal_, a=0.01, nonlinearity="leaky_relu")
lecun = partial(nn.init.kaiming_normal_, nonlinearity="linear")

ten = partial(DeepClassifier, depth=10, width=64)
thirty = partial(DeepClassifier, depth=30, width=64)

SIGMOID = Recipe("10 sigmoids", partial(ten, nn.Sigmoid), adam(1e-3))
TANH = Recipe("30 tanhs", partial(thirty, nn.Tanh), adam(5e-4))

PAIRS = (
    Pair(
        "ReLU",
        VANISHING,
        SIGMOID,
        Recipe("10 ReLUs", partial(ten, nn.ReLU, weights=he), adam(1e-3)),
    ),
    Pair(
        "LeakyReLU",
        VANISHING,
        SIGMOID,
        Recipe("10 LeakyReLUs", partial(ten, nn.LeakyReLU, weights=leaky_he), adam(1e-3)),
    ),
    Pair(
        "GELU",
        VANISHING,
        SIGMOID,
        Recipe("10 GELUs", partial(ten, nn.GELU, weights=he), adam(1e-3)),
    ),
    Pair(
        "SELU",
        VANISHING,
        SIGMOID,
        Recipe("10 SELUs", partial(ten, nn.SELU, weights=lecun), adam(1e-3)),
    ),
    Pair(
        "SELU",
        VANISHING,
        TANH,
        Recipe("30 SELUs", partial(thirty, nn.SELU, weights=lecun), adam(5e-4)),
    ),
)
each_pair = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.cured.what)


@pytest.mark.xfail(strict=True, raises=VanishingGradientError, reason="ten sigmoids")
def test_sigmoid(gradhealth: GradHealth, batch: Batch) -> None:
    """Ten sigmoids let a few billionths of the gradient through."""
    gradhealth.assert_no_vanishing(SIGMOID.model, *batch, loss=cross_entropy, seeds=SEEDS)


@pytest.mark.xfail(strict=True, raises=VanishingGradientError, reason="thirty tanhs")
def test_deep_tanh(gradhealth: GradHealth, batch: Batch) -> None:
    """Thirty tanhs fail too."""
    gradhealth.assert_no_vanishing(TANH.model, *batch, loss=cross_entropy, seeds=SEEDS)


def test_shallow_tanh(gradhealth: GradHealth, batch: Batch) -> None:
    """Ten tanhs pass: a slope of 1 at zero is not a slope of 1/4."""
    shallow = partial(ten, nn.Tanh)
    gradhealth.assert_no_vanishing(shallow, *batch, loss=cross_entropy, seeds=SEEDS)


@each_pair
def test_cured(gradhealth: GradHealth, batch: Batch, pair: Pair) -> None:
    """The gradient arrives, neither starved nor swollen."""
    model = pair.cured.model
    gradhealth.assert_no_vanishing(model, *batch, loss=cross_entropy, seeds=SEEDS)
    gradhealth.assert_no_exploding(model, *batch, loss=cross_entropy, seeds=SEEDS)


@each_pair
def test_only_the_cured_learns(train: Callable[[Recipe], Trained], pair: Pair) -> None:
    """The same steps of the same optimizer."""
    assert train(pair.sick).failed
    assert train(pair.cured).learned


if __name__ == "__main__":
    show(*PAIRS)

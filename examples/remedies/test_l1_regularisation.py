"""L1 regularisation: large weights explode, and their penalty wears them down.

Weights 3.8 times as large as He's make the gradient grow by 3.8 per layer, by 10**5 through ten.
The penalty lambda * sum(|w|) has the gradient lambda * sign(w), so each step of SGD takes lr *
lambda off every weight, large or small, until what ten layers multiply is level and the small ones
are zero. Too strong a penalty wears all of them down: its gradient, lambda * sqrt(n) for n weights,
drowns that of the data, and the network learns no digits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from examples.mnist.models import DeepClassifier, he
from examples.remedies.pair import (
    DROWNED,
    SEEDS,
    STILL_EXPLODING,
    Pair,
    Recipe,
    Trained,
    sgd,
    show,
)
from pytest_gradhealth import DominatingRegularizerError, ExplodingGradientError, GradHealth

Batch = tuple[Tensor, Tensor]


def l1(model: nn.Module, *, strength: float) -> Tensor:
    """Return `strength` times the sum of the sizes of the weights between hidden layers.

    The first layer's weights are smaller, one for each of 784 pixels, and would be gone before the
    others are level.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)][1:-1]
    return strength * torch.stack([layer.weight.abs().sum() for layer in layers]).sum()


large = partial(DeepClassifier, nn.ReLU, depth=10, width=128, weights=partial(he, gain=3.8))
level = partial(DeepClassifier, nn.ReLU, depth=10, width=128, weights=he)

# The first gradients would throw the weights away, so the steps are clipped, with penalty and
# without.
LARGE = Recipe("large weights", large, sgd(0.15), clip=1.0, steps=800)
WORN = replace(LARGE, what="large weights, L1 0.005", penalty=partial(l1, strength=0.005))
STRONG = Recipe("L1 of 0.3", level, sgd(0.05), penalty=partial(l1, strength=0.3), steps=200)
MILD = replace(STRONG, what="L1 of 0.0001", penalty=partial(l1, strength=1e-4))

PAIRS = (
    Pair("L1 penalty", STILL_EXPLODING, LARGE, WORN),
    Pair("less L1 penalty", DROWNED, STRONG, MILD),
)


@pytest.mark.xfail(strict=True, raises=ExplodingGradientError, reason="large weights, no penalty")
def test_without(gradhealth: GradHealth, batch: Batch, train: Callable[[Recipe], Trained]) -> None:
    """The explosion outlives the training."""
    gradhealth.assert_no_exploding(train(LARGE).model, *batch, loss=cross_entropy)


def test_with(gradhealth: GradHealth, batch: Batch, train: Callable[[Recipe], Trained]) -> None:
    """After the same steps with the penalty the gradient is level."""
    gradhealth.assert_no_exploding(train(WORN).model, *batch, loss=cross_entropy)


@pytest.mark.xfail(strict=True, raises=DominatingRegularizerError, reason="L1 too strong")
def test_too_much(gradhealth: GradHealth, batch: Batch) -> None:
    """The penalty pulls more than ten times as hard as the data."""
    gradhealth.assert_no_dominating_regularizer(
        STRONG.model,
        *batch,
        loss=cross_entropy,
        optimizer=STRONG.optimizer,
        regularizer=STRONG.penalty,
        seeds=SEEDS,
    )


def test_enough(gradhealth: GradHealth, batch: Batch) -> None:
    """A mild penalty leaves the say to the data."""
    gradhealth.assert_no_dominating_regularizer(
        MILD.model,
        *batch,
        loss=cross_entropy,
        optimizer=MILD.optimizer,
        regularizer=MILD.penalty,
        seeds=SEEDS,
    )


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.cured.what)
def test_only_the_cured_learns(train: Callable[[Recipe], Trained], pair: Pair) -> None:
    """The same steps; large weights stay at a loss of hundreds."""
    assert train(pair.sick).failed
    assert train(pair.cured).learned


if __name__ == "__main__":
    show(*PAIRS)

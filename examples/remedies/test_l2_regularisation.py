"""L2 regularisation: large weights explode, and their penalty pulls them back.

Weights 4.3 times as large as He's make the gradient grow by 4.3 per layer, by 10**5 through ten.
The penalty lambda * sum(w**2) has the gradient 2 * lambda * w, so each step of SGD also shrinks
every weight by the factor 1 - 2 * lr * lambda, and what ten layers multiply falls fast; SGD's
`weight_decay` of 2 * lambda does the same. Too strong a penalty shrinks the weights to nothing: its
gradient drowns that of the data, and the network learns no digits.
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


def l2(model: nn.Module, *, strength: float) -> Tensor:
    """Return `strength` times the sum of the squares of all parameters."""
    return strength * torch.stack([p.square().sum() for p in model.parameters()]).sum()


large = partial(DeepClassifier, nn.ReLU, depth=10, width=64, weights=partial(he, gain=4.3))
level = partial(DeepClassifier, nn.ReLU, depth=10, width=64, weights=he)

# The first gradients would throw the weights away, so the steps are clipped, with penalty and
# without.
LARGE = Recipe("large weights", large, sgd(0.1), clip=1.0, steps=600)
PULLED = replace(LARGE, what="large weights, L2 0.01", penalty=partial(l2, strength=0.01))
DECAYED = replace(
    LARGE, what="large weights, weight decay 0.02", optimizer=sgd(0.1, weight_decay=0.02)
)
STRONG = Recipe("L2 of 1", level, sgd(0.05), penalty=partial(l2, strength=1.0), steps=300)
MILD = replace(STRONG, what="L2 of 0.0001", penalty=partial(l2, strength=1e-4))
STRONG_DECAY = replace(
    STRONG, what="weight decay of 2", optimizer=sgd(0.05, weight_decay=2.0), penalty=None
)

PAIRS = (
    Pair("L2 penalty", STILL_EXPLODING, LARGE, PULLED),
    Pair("weight decay", STILL_EXPLODING, LARGE, DECAYED),
    Pair("less L2 penalty", DROWNED, STRONG, MILD),
)


@pytest.mark.xfail(strict=True, raises=ExplodingGradientError, reason="large weights, no penalty")
def test_without(gradhealth: GradHealth, batch: Batch, train: Callable[[Recipe], Trained]) -> None:
    """The explosion outlives the training."""
    gradhealth.assert_no_exploding(train(LARGE).model, *batch, loss=cross_entropy)


@pytest.mark.parametrize("recipe", [PULLED, DECAYED], ids=["penalty", "weight_decay"])
def test_with(
    gradhealth: GradHealth,
    batch: Batch,
    train: Callable[[Recipe], Trained],
    recipe: Recipe,
) -> None:
    """After the same steps with the penalty the gradient is level."""
    gradhealth.assert_no_exploding(train(recipe).model, *batch, loss=cross_entropy)


@pytest.mark.xfail(strict=True, raises=DominatingRegularizerError, reason="L2 too strong")
@pytest.mark.parametrize("recipe", [STRONG, STRONG_DECAY], ids=["penalty", "weight_decay"])
def test_too_much(gradhealth: GradHealth, batch: Batch, recipe: Recipe) -> None:
    """The penalty pulls more than ten times as hard as the data."""
    gradhealth.assert_no_dominating_regularizer(
        recipe.model,
        *batch,
        loss=cross_entropy,
        optimizer=recipe.optimizer,
        regularizer=recipe.penalty,
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
    """The same steps; large weights stay at a loss of thousands."""
    assert train(pair.sick).failed
    assert train(pair.cured).learned


if __name__ == "__main__":
    show(*PAIRS)

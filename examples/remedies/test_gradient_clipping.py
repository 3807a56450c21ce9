"""Gradient clipping: a step is never longer than the learning rate times the threshold.

Weights half as large again as He's make signal and gradient grow by 1.5 per layer, 1.5**10 = 58 in
all, and plain SGD turns that into steps that throw the weights away: the next loss is larger, the
next gradient larger still, and soon everything is NaN. Clipping by norm multiplies all gradients by
min(1, c / |g|), which keeps their direction and bounds the step by lr * c; clipping by value cuts
each entry to [-c, c] on its own. Neither helps where the gradient vanishes instead.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_value_

from examples.mnist.models import DeepClassifier, he
from examples.remedies.pair import SEEDS, WILD_STEP, Pair, Recipe, Trained, sgd, show
from pytest_gradhealth import ExplodingUpdateError, GradHealth

Batch = tuple[Tensor, Tensor]

large = partial(DeepClassifier, nn.ReLU, depth=10, width=64, weights=partial(he, gain=1.5))

SICK = Recipe("no clipping", large, sgd(0.1), steps=200)
BY_NORM = Recipe("clip_grad_norm_ at 1", large, sgd(0.1), clip=1.0, steps=200)
BY_VALUE = Recipe(
    "clip_grad_value_ at 0.1",
    large,
    sgd(0.1),
    clip=partial(clip_grad_value_, clip_value=0.1),
    steps=200,
)

PAIRS = (
    Pair("gradient clipping by norm", WILD_STEP, SICK, BY_NORM),
    Pair("gradient clipping by value", WILD_STEP, SICK, BY_VALUE),
)
each_pair = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.cured.what)


@pytest.mark.xfail(strict=True, raises=ExplodingUpdateError, reason="no clipping")
def test_without(gradhealth: GradHealth, batch: Batch) -> None:
    """Ten steps are enough to lose the weights."""
    gradhealth.assert_no_exploding_update(
        SICK.model, *batch, loss=cross_entropy, optimizer=SICK.optimizer, seeds=SEEDS
    )


@each_pair
def test_with(gradhealth: GradHealth, batch: Batch, pair: Pair) -> None:
    """Clipped steps change each weight by a small share of itself."""
    recipe = pair.cured
    gradhealth.assert_no_exploding_update(
        recipe.model,
        *batch,
        loss=cross_entropy,
        optimizer=recipe.optimizer,
        clip=recipe.clip,
        seeds=SEEDS,
    )


@each_pair
def test_only_the_cured_learns(train: Callable[[Recipe], Trained], pair: Pair) -> None:
    """The same steps of plain SGD; without clipping they end in NaN."""
    assert train(pair.sick).failed
    assert train(pair.cured).learned


if __name__ == "__main__":
    show(*PAIRS)

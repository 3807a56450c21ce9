"""Batch normalisation: every layer hands on unit variance, whatever its weights.

With PyTorch's default weights, of variance 1 / (3 * fan_in), each ReLU layer shrinks signal and
gradient by sqrt(1/6) = 0.41; twenty of them leave 0.41**19, less than 10**-7. Batch norm computes
(x - mean) / std before each activation, so the signal is rescaled on the way forward, and the
gradient by the same 1 / std on the way back. The gradient then grows a little instead, by up to
sqrt(pi / (pi - 1)) = 1.21 per layer: harmless for twenty layers, but not for fifty.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from examples.mnist.models import DeepClassifier
from examples.remedies.pair import SEEDS, VANISHING, Pair, Recipe, Trained, sgd, show
from pytest_gradhealth import GradHealth, VanishingGradientError

Batch = tuple[Tensor, Tensor]

twenty = partial(DeepClassifier, nn.ReLU, depth=20, width=64)

PAIR = Pair(
    "batch normalisation",
    VANISHING,
    sick=Recipe("20 ReLUs", twenty, sgd(0.05), steps=200),
    cured=Recipe("20 ReLUs, batch norm", partial(twenty, batch_norm=True), sgd(0.05), steps=200),
)
PAIRS = (PAIR,)


@pytest.mark.xfail(strict=True, raises=VanishingGradientError, reason="20 layers without a norm")
def test_without(gradhealth: GradHealth, batch: Batch) -> None:
    """Twenty layers, each of which keeps 0.41 of the gradient."""
    gradhealth.assert_no_vanishing(PAIR.sick.model, *batch, loss=cross_entropy, seeds=SEEDS)


def test_with(gradhealth: GradHealth, batch: Batch) -> None:
    """The same twenty layers with norms: the gradient grows a hundredfold, within the limit."""
    model = PAIR.cured.model
    gradhealth.assert_no_vanishing(model, *batch, loss=cross_entropy, seeds=SEEDS)
    gradhealth.assert_no_exploding(model, *batch, loss=cross_entropy, seeds=SEEDS)


def test_only_the_cured_learns(train: Callable[[Recipe], Trained]) -> None:
    """The same steps of plain SGD."""
    assert train(PAIR.sick).failed
    assert train(PAIR.cured).learned


if __name__ == "__main__":
    show(*PAIRS)

"""Residual connections: the identity path x + f(x) has the Jacobian I + f', which cannot die out.

Without shortcuts the gradient is multiplied by f' in every block, so whatever each block does to it
happens to the power of the depth. Batch norm alone does not prevent that: it makes the gradient
grow in each layer, and through 120 convolutions by more than 10**5. With shortcuts each block adds
its share to a gradient that passes through unchanged, and the same 60 blocks train.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from torch import Tensor
from torch.nn.functional import cross_entropy

from examples.mnist.models import DeepConvNet
from examples.remedies.pair import EXPLODING, SEEDS, Pair, Recipe, Trained, adam, show
from pytest_gradhealth import ExplodingGradientError, GradHealth

Batch = tuple[Tensor, Tensor]

sixty = partial(DeepConvNet, blocks=60, width=16)

PAIR = Pair(
    "residual connections",
    EXPLODING,
    sick=Recipe("60 blocks of convolutions", partial(sixty, shortcuts=False), adam(2e-3), steps=60),
    cured=Recipe("60 residual blocks", partial(sixty, shortcuts=True), adam(2e-3), steps=60),
)
PAIRS = (PAIR,)


@pytest.mark.xfail(strict=True, raises=ExplodingGradientError, reason="60 blocks, no shortcuts")
def test_without(gradhealth: GradHealth, batch: Batch) -> None:
    """Sixty blocks without a way around them, each of which adds to the gradient."""
    gradhealth.assert_no_exploding(PAIR.sick.model, *batch, loss=cross_entropy, seeds=SEEDS)


def test_with(gradhealth: GradHealth, batch: Batch) -> None:
    """The same sixty blocks with shortcuts."""
    model = PAIR.cured.model
    gradhealth.assert_no_exploding(model, *batch, loss=cross_entropy, seeds=SEEDS)
    gradhealth.assert_no_vanishing(model, *batch, loss=cross_entropy, seeds=SEEDS)


def test_only_the_cured_learns(train: Callable[[Recipe], Trained]) -> None:
    """The same steps of Adam."""
    assert train(PAIR.sick).failed
    assert train(PAIR.cured).learned


if __name__ == "__main__":
    show(*PAIRS)

"""Activation functions: a slope of at most 1/4 per layer starves the first layers.

A sigmoid's slope is sigma' = sigma * (1 - sigma) <= 1/4, so ten of them let at most 0.25**10, a
millionth, of the gradient pass. Tanh has slope 1 at zero and lives longer: with PyTorch's default
weights each layer keeps 1/sqrt(3) of the gradient, which takes some twenty layers to vanish. ReLU
and its relatives have slope 1 on their open side, and with the weights made for them, the variance
2 / fan_in for ReLU, LeakyReLU and GELU and 1 / fan_in for SELU, the gradient arrives.
"""

from __future__ import annotations

from functools import partial

import pytest
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from examples.remedies.pair import SEEDS, show
from examples.remedies.pairs import ACTIVATION_FUNCTIONS, SIGMOID, TANH, ten
from pytest_gradhealth import GradHealth, VanishingGradientError

Batch = tuple[Tensor, Tensor]


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


if __name__ == "__main__":
    show(*ACTIVATION_FUNCTIONS)

"""Activation functions: a slope of at most 1/4 per layer starves the first layers.

A sigmoid's slope is sigma' = sigma * (1 - sigma) <= 1/4, so ten of them let at most 0.25**10, a
millionth, of the gradient pass. Tanh has slope 1 at zero and lives longer: with PyTorch's default
weights each layer keeps 1/sqrt(3) of the gradient, which takes some twenty layers to vanish. ReLU
and its relatives have slope 1 on their open side, and with the weights made for them, the variance
2 / fan_in for ReLU, LeakyReLU and GELU and 1 / fan_in for SELU, the gradient arrives.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from examples.remedies.pair import SEEDS, VANISHING, rejected, show
from examples.remedies.pairs import ACTIVATION_FUNCTIONS, SIGMOID, TANH, ten
from pytest_gradhealth import GradHealth

Batch = tuple[Tensor, Tensor]


test_sigmoid = rejected(SIGMOID, VANISHING, "ten sigmoids let a few billionths through")
test_deep_tanh = rejected(TANH, VANISHING, "thirty tanhs fail too")


def test_shallow_tanh(gradhealth: GradHealth, batch: Batch) -> None:
    """Ten tanhs pass: a slope of 1 at zero is not a slope of 1/4."""
    shallow = partial(ten, nn.Tanh)
    gradhealth.assert_no_vanishing(shallow, *batch, loss=cross_entropy, seeds=SEEDS)


if __name__ == "__main__":
    show(*ACTIVATION_FUNCTIONS)

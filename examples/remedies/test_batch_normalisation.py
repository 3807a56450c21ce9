"""Batch normalisation: every layer hands on unit variance, whatever its weights.

With PyTorch's default weights, of variance 1 / (3 * fan_in), each ReLU layer shrinks signal and
gradient by sqrt(1/6) = 0.41; twenty of them leave 0.41**19, less than 10**-7. Batch norm computes
(x - mean) / std before each activation, so the signal is rescaled on the way forward, and the
gradient by the same 1 / std on the way back. The gradient then grows a little instead, by up to
sqrt(pi / (pi - 1)) = 1.21 per layer: harmless for twenty layers, but not for fifty.
"""

from __future__ import annotations

import pytest
from torch import Tensor
from torch.nn.functional import cross_entropy

from examples.remedies.pair import SEEDS, show
from examples.remedies.pairs import BATCH_NORMALISATION, WITHOUT_NORM
from pytest_gradhealth import GradHealth, VanishingGradientError

Batch = tuple[Tensor, Tensor]


@pytest.mark.xfail(strict=True, raises=VanishingGradientError, reason="20 layers without a norm")
def test_without(gradhealth: GradHealth, batch: Batch) -> None:
    """Twenty layers, each of which keeps 0.41 of the gradient."""
    gradhealth.assert_no_vanishing(WITHOUT_NORM.model, *batch, loss=cross_entropy, seeds=SEEDS)


if __name__ == "__main__":
    show(*BATCH_NORMALISATION)

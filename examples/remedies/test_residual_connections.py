"""Residual connections: the identity path x + f(x) has the Jacobian I + f', which cannot die out.

Without shortcuts the gradient is multiplied by f' in every block, so whatever each block does to it
happens to the power of the depth. Batch norm alone does not prevent that: it makes the gradient
grow in each layer, and through 120 convolutions by more than 10**5. With shortcuts each block adds
its share to a gradient that passes through unchanged, and the same 60 blocks train.
"""

from __future__ import annotations

import pytest
from torch import Tensor
from torch.nn.functional import cross_entropy

from examples.remedies.pair import SEEDS, show
from examples.remedies.pairs import RESIDUAL_CONNECTIONS, WITHOUT_SHORTCUTS
from pytest_gradhealth import ExplodingGradientError, GradHealth

Batch = tuple[Tensor, Tensor]


@pytest.mark.xfail(strict=True, raises=ExplodingGradientError, reason="60 blocks, no shortcuts")
def test_without(gradhealth: GradHealth, batch: Batch) -> None:
    """Sixty blocks without a way around them, each of which adds to the gradient."""
    gradhealth.assert_no_exploding(WITHOUT_SHORTCUTS.model, *batch, loss=cross_entropy, seeds=SEEDS)


if __name__ == "__main__":
    show(*RESIDUAL_CONNECTIONS)

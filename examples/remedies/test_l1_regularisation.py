"""L1 regularisation: large weights explode, and their penalty wears them down.

Weights 3.8 times as large as He's make the gradient grow by 3.8 per layer, by 10**5 through ten.
The penalty lambda * sum(|w|) has the gradient lambda * sign(w), so each step of SGD takes lr *
lambda off every weight, large or small, until what ten layers multiply is level and the small ones
are zero. Too strong a penalty wears all of them down: its gradient, lambda * sqrt(n) for n weights,
drowns that of the data, and the network learns no digits.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor
from torch.nn.functional import cross_entropy

from examples.remedies.pair import DROWNED, Recipe, Trained, rejected, show
from examples.remedies.pairs import L1_REGULARISATION, LARGE_WITHOUT_L1, STRONG_L1
from pytest_gradhealth import ExplodingGradientError, GradHealth

Batch = tuple[Tensor, Tensor]


@pytest.mark.xfail(strict=True, raises=ExplodingGradientError, reason="large weights, no penalty")
def test_without(gradhealth: GradHealth, batch: Batch, train: Callable[[Recipe], Trained]) -> None:
    """The explosion outlives the training."""
    gradhealth.assert_no_exploding(train(LARGE_WITHOUT_L1).model, *batch, loss=cross_entropy)


test_too_much = rejected(STRONG_L1, DROWNED, "it pulls more than ten times as hard as the data")


if __name__ == "__main__":
    show(*L1_REGULARISATION)

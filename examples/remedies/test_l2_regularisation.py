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

import pytest
from torch import Tensor
from torch.nn.functional import cross_entropy

from examples.remedies.pair import DROWNED, Recipe, Trained, rejected, sgd, show
from examples.remedies.pairs import L2_REGULARISATION, LARGE_WITHOUT_L2, STRONG_L2
from pytest_gradhealth import ExplodingGradientError, GradHealth

Batch = tuple[Tensor, Tensor]

STRONG_DECAY = replace(
    STRONG_L2, what="weight decay of 2", optimizer=sgd(0.05, weight_decay=2.0), penalty=None
)


@pytest.mark.xfail(strict=True, raises=ExplodingGradientError, reason="large weights, no penalty")
def test_without(gradhealth: GradHealth, batch: Batch, train: Callable[[Recipe], Trained]) -> None:
    """The explosion outlives the training."""
    gradhealth.assert_no_exploding(train(LARGE_WITHOUT_L2).model, *batch, loss=cross_entropy)


test_too_much = rejected(STRONG_L2, DROWNED, "it pulls more than ten times as hard as the data")
test_too_much_decay = rejected(STRONG_DECAY, DROWNED, "and so does the decay")


if __name__ == "__main__":
    show(*L2_REGULARISATION)

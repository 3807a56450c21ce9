"""Gradient clipping: a step is never longer than the learning rate times the threshold.

Weights half as large again as He's make signal and gradient grow by 1.5 per layer, 1.5**10 = 58 in
all, and plain SGD turns that into steps that throw the weights away: the next loss is larger, the
next gradient larger still, and soon everything is NaN. Clipping by norm multiplies all gradients by
min(1, c / |g|), which keeps their direction and bounds the step by lr * c; clipping by value cuts
each entry to [-c, c] on its own. Neither helps where the gradient vanishes instead.
"""

from __future__ import annotations

import pytest
from torch import Tensor
from torch.nn.functional import cross_entropy

from examples.remedies.pair import SEEDS, WILD_STEP, Pair, rejected, show
from examples.remedies.pairs import GRADIENT_CLIPPING, UNCLIPPED
from pytest_gradhealth import GradHealth

Batch = tuple[Tensor, Tensor]


test_without = rejected(UNCLIPPED, WILD_STEP, "ten steps are enough to lose the weights")


@pytest.mark.parametrize("pair", GRADIENT_CLIPPING, ids=lambda pair: pair.cured.what)
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


if __name__ == "__main__":
    show(*GRADIENT_CLIPPING)

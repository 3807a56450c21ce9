"""Models that cannot be copied are refused where a copy is trained."""

from __future__ import annotations

from typing import Any

from torch import nn

from pytest_gradhealth import probe
from tests.helpers.nets import batch, mlp
from tests.helpers.refusals import check, refusal

cross_entropy = nn.functional.cross_entropy


class Single(nn.Sequential):
    """A model that cannot be copied."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("there is only one")


def test_a_model_that_cannot_be_copied_for_the_confirm_steps() -> None:
    (x, y), model = batch(), Single(*mlp(nn.Sigmoid, hidden=10))
    check(
        refusal(model, x, y, loss=cross_entropy),
        "Single cannot be deep-copied (TypeError: there is only one), which confirming a verdict or"
        " moving to cpu takes; pass a factory that builds the model on its device, or"
        " confirm_steps=0 to judge the first look alone",
        TypeError,
    )
    assert probe(model, x, y, loss=cross_entropy, confirm_steps=0).verdict == "failure"
    assert probe(Single(*mlp()), x, y, loss=cross_entropy).verdict == "healthy"

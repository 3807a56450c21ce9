"""A backward pass that raises is told in words."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.helpers.refusals import Breaks, Returning, check, raising, refusal


@pytest.mark.parametrize("where", ["function", "tensor hook", "module hook"])
def test_a_backward_that_raises(where: str) -> None:
    model: Any = Returning(Breaks.apply if where == "function" else torch.clone)
    if where == "tensor hook":
        model.layer.weight.register_hook(raising)
    if where == "module hook":
        model.layer.register_full_backward_pre_hook(raising)
    check(refusal(model), "the backward pass raised KeyError: 'nothing'", KeyError)

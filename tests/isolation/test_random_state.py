"""Random numbers, modes and warnings are as they were before a probe."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import probe
from tests.helpers.nets import batch, mlp
from tests.helpers.state import Doing, sick, unchanged

cross_entropy = nn.functional.cross_entropy


def switch(on: bool) -> Callable[[Any, Tensor], None]:
    """A forward that turns every mode of torch, and draws numbers of every kind."""

    def act(_: Any, x: Tensor) -> None:
        torch.set_default_dtype(torch.float64 if on else torch.float32)
        torch.use_deterministic_algorithms(on, warn_only=on)
        torch.autograd.set_detect_anomaly(on, check_nan=not on)
        warnings.simplefilter("always")
        torch.manual_seed(3), random.seed(4), np.random.seed(5)
        torch.set_grad_enabled(True)

    return act


@pytest.mark.parametrize("on", [False, True])
@pytest.mark.parametrize("model", [mlp, sick])
def test_modes_and_random_numbers_are_as_before(model: Callable[[], nn.Module], on: bool) -> None:
    x, y = batch()
    subject = Doing(switch(not on), body=model())
    switch(on)(None, x)
    with torch.set_grad_enabled(on), warnings.catch_warnings():
        warnings.simplefilter("error")
        with unchanged(subject):
            probe(subject, x, y, loss=cross_entropy)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_factory_leaves_the_world_alone(
    mode: Callable[[], AbstractContextManager[None]],
) -> None:
    def build() -> nn.Module:
        random.random(), np.random.rand()
        torch.set_default_dtype(torch.float32)
        return sick()

    x, y = batch()
    with mode(), unchanged(x, y):
        assert probe(build, x, y, loss=cross_entropy).verdict == "failure"


def test_warnings_of_the_model_stay_inside() -> None:
    model = Doing(lambda *_: warnings.warn("from the forward", UserWarning, stacklevel=1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        probe(model, batch()[0])
    assert caught == []

"""Digits read row by row (28 steps) and pixel by pixel (784): what has come first is forgotten.

A tanh layer with PyTorch's weights passes on about half of the gradient from step to step, an
unbiased LSTM little more: after 28 steps next to nothing is left. Orthogonal and identity weights
keep it, and so do forget gates that are biased to stay open. The training runs read each digit and
then 28 blank rows before they answer, which only those can that the linter accepts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from examples.mnist.digits import batches
from examples.mnist.recurrent import Reader, identity_rnn, lstm, orthogonal_rnn, tanh_rnn
from examples.mnist.training import accuracy, train
from pytest_gradhealth import GradHealth, VanishingInTimeError

Digits = tuple[Tensor, Tensor]
Build = Callable[[], nn.RNNBase]

ROW = 28
ROWS: dict[str, tuple[Build, bool]] = {
    "tanh": (partial(tanh_rnn, ROW), False),
    "LSTM": (partial(lstm, ROW), False),
    "orthogonal": (partial(orthogonal_rnn, ROW), True),
    "identity": (partial(identity_rnn, ROW), True),
    "LSTM with open gates": (partial(lstm, ROW, steps=28), True),
}
PIXELS: dict[str, tuple[Build, bool]] = {
    "tanh": (partial(tanh_rnn, 1), False),
    "LSTM": (partial(lstm, 1), False),
    "orthogonal": (partial(orthogonal_rnn, 1), True),
    "identity": (partial(identity_rnn, 1), True),
    "LSTM with open gates": (partial(lstm, 1, steps=784), True),
}


def forgetful(nets: dict[str, tuple[Build, bool]]) -> list[object]:
    """The networks, with those that are expected to fail marked so."""
    forgets = pytest.mark.xfail(strict=True, raises=VanishingInTimeError, reason="it forgets")
    return [
        pytest.param(build, id=name, marks=() if remembers else forgets)
        for name, (build, remembers) in nets.items()
    ]


@pytest.mark.gradhealth(remedy_budget=0)
@pytest.mark.parametrize("build", forgetful(ROWS))
def test_rows(gradhealth: GradHealth, batch: Digits, build: Build) -> None:
    """The first of 28 rows must count for what is said after the last."""
    gradhealth.assert_no_vanishing_in_time(
        Reader(build()), *batch, loss=cross_entropy, dependency=27
    )


@pytest.mark.gradhealth(remedy_budget=0)
@pytest.mark.parametrize("build", forgetful(PIXELS))
def test_pixels(gradhealth: GradHealth, batch: Digits, build: Build) -> None:
    """The first of 784 pixels must count."""
    images, labels = batch
    gradhealth.assert_no_vanishing_in_time(
        Reader(build()), images[:20], labels[:20], loss=cross_entropy, dependency=783
    )


def with_a_pause(images: Tensor, labels: Tensor) -> Digits:
    """Each digit, and 28 blank rows after it."""
    return torch.cat([images, torch.zeros_like(images)], dim=1), labels


@pytest.mark.parametrize("name", ROWS)
def test_only_what_is_accepted_learns_to_remember(
    training_digits: Digits, test_digits: Digits, name: str
) -> None:
    """What the linter rejects stays at chance level, one digit in ten."""
    build, remembers = ROWS[name]
    model = Reader(build())
    train(model, batches(*with_a_pause(*training_digits), epochs=6), lr=2e-3, clip=1.0, title=name)
    right = accuracy(model, *with_a_pause(*test_digits))
    assert right > 0.4 if remembers else right < 0.2

"""What the messages of the sick examples print as a cure is one, typed in and trained."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

import pytest

pytest.importorskip("torchvision")

import torch
from torch import nn

from examples.mnist.digits import BATCH, batches, load_digits
from examples.mnist.training import one_thread, train
from examples.remedies.pair import SEEDS, Pair
from examples.remedies.pairs import PAIRS, WITHOUT_SHORTCUTS
from pytest_gradhealth import GradientHealthError, built_in_remedies
from pytest_gradhealth.assertions import verdict
from tests.helpers.remedies import cures

TRAINING = load_digits(train=True)
#: Steps until which the loss of guessing, log(10), is left behind by a tenth.
STEPS = 100
ADAM = torch.optim.Adam
#: One or two of each family, which are tried in seconds.
FEW = ("SELU", "LeakyReLU", "batch norm", "residual", "clip by value", "orthogonal init")
#: The sick networks that are judged as they are built, each once; a penalty is cured by less of it,
#: and sixty blocks of convolutions take minutes.
SICK = {
    pair.sick.what: pair
    for pair in PAIRS
    if not (pair.symptom.after_training or pair.sick.penalty)
    and pair.sick is not WITHOUT_SHORTCUTS
    and pair.sick.what != "30 tanhs, PyTorch's weights"  # the same network as "30 tanhs"
}


@pytest.fixture(autouse=True)
def few_remedies(_outside_pytest: None, monkeypatch: pytest.MonkeyPatch) -> None:
    few = tuple(remedy for remedy in built_in_remedies() if remedy.name in FEW)
    monkeypatch.setattr(verdict, "built_in_remedies", lambda: few)


def ends_at(pair: Pair, code: str, seed: int) -> float:
    """The loss that the sick network ends with when it is given the code of a cure."""
    torch.manual_seed(seed)
    space: dict[str, Any] = {"model": pair.sick.model()}
    clips = "backward()" in code.splitlines()[0]
    if not clips:
        exec(code, space)

    def clip(_: list[nn.Parameter]) -> None:
        exec(code, space)

    few = batches(*TRAINING, epochs=math.ceil(STEPS * BATCH / len(TRAINING[1])), seed=seed)[:STEPS]
    optimizer = pair.sick.optimizer if pair.symptom.of_step else None
    with one_thread():
        made = train(space["model"], few, optimizer=optimizer, clip=clip if clips else None)
    return fmean(made[-10:])


@pytest.mark.parametrize("name", SICK)
def test_what_is_printed_trains_under_five_seeds(name: str) -> None:
    pair = SICK[name]
    first = tuple(part[:BATCH] for part in TRAINING)
    torch.manual_seed(0)
    with pytest.raises(GradientHealthError) as caught:
        pair.symptom.check(
            pair.sick.model(), *first, **pair.symptom.asked(pair.sick), remedy_budget=60
        )
    found = cures(str(caught.value))
    assert found
    for remedy, code in found.items():
        ends = [ends_at(pair, code, seed) for seed in SEEDS]
        assert max(ends) < 0.9 * math.log(10), (remedy, ends)

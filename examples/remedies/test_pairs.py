"""Every remedy cures: the network that has it passes, and it alone learns.

How each network fails without its remedy is in the remedy's own file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from torch import Tensor
from torch.nn.functional import cross_entropy

from examples.remedies.pair import (
    DROWNED,
    EXPLODING,
    SEEDS,
    STILL_EXPLODING,
    VANISHING,
    Pair,
    Recipe,
    Symptom,
    Trained,
)
from examples.remedies.pairs import PAIRS
from pytest_gradhealth import GradHealth

Batch = tuple[Tensor, Tensor]


def each(pairs: Iterable[Pair]) -> pytest.MarkDecorator:
    """Parametrise a test over pairs."""
    return pytest.mark.parametrize(
        "pair", tuple(pairs), ids=lambda pair: f"{pair.sick.what} to {pair.cured.what}"
    )


def with_symptoms(*symptoms: Symptom) -> Iterable[Pair]:
    """The pairs whose sick networks show one of some symptoms."""
    return (pair for pair in PAIRS if pair.symptom in symptoms)


@each(with_symptoms(VANISHING, EXPLODING))
def test_the_gradient_arrives(gradhealth: GradHealth, batch: Batch, pair: Pair) -> None:
    """It is neither starved nor swollen."""
    model = pair.cured.model
    gradhealth.assert_no_vanishing(model, *batch, loss=cross_entropy, seeds=SEEDS)
    gradhealth.assert_no_exploding(model, *batch, loss=cross_entropy, seeds=SEEDS)


@each(with_symptoms(STILL_EXPLODING))
def test_the_training_ends_level(
    gradhealth: GradHealth, batch: Batch, train: Callable[[Recipe], Trained], pair: Pair
) -> None:
    """After the same steps with a penalty on large weights the gradient is level."""
    gradhealth.assert_no_exploding(train(pair.cured).model, *batch, loss=cross_entropy)


@each(with_symptoms(DROWNED))
def test_the_data_have_their_say(gradhealth: GradHealth, batch: Batch, pair: Pair) -> None:
    """A mild penalty leaves it to them."""
    recipe = pair.cured
    gradhealth.assert_no_dominating_regularizer(
        recipe.model,
        *batch,
        loss=cross_entropy,
        optimizer=recipe.optimizer,
        regularizer=recipe.penalty,
        seeds=SEEDS,
    )


@each(PAIRS)
def test_only_the_cured_learns(train: Callable[[Recipe], Trained], pair: Pair) -> None:
    """The same steps of the same optimizer.

    Without clipping they end in NaN, large weights stay at a loss of hundreds and thousands, and
    weights of 10 leave Adam alive, at a loss of 10**16.
    """
    assert train(pair.sick).failed
    assert train(pair.cured).learned

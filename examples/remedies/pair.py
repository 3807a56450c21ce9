"""A remedy as a pair of networks: the sick one, and the same network with the remedy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from examples.mnist.digits import BATCH, batches, load_digits
from examples.mnist.training import Clip, Optimizing, Penalty, accuracy, one_thread, train
from pytest_gradhealth import (
    Diagnosis,
    DominatingRegularizerError,
    ExplodingGradientError,
    ExplodingUpdateError,
    GradHealth,
    GradientHealthError,
    VanishingGradientError,
    assert_no_dominating_regularizer,
    assert_no_exploding,
    assert_no_exploding_update,
    assert_no_vanishing,
)

Digits = tuple[Tensor, Tensor]

#: Every claim of a pair holds under each of these.
SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Recipe:
    """How a network is built and trained; `what` is its name in tables."""

    what: str
    model: Callable[[], nn.Module]
    optimizer: Optimizing
    clip: Clip | None = None
    penalty: Penalty | None = None
    steps: int = 100


@dataclass(frozen=True)
class Symptom:
    """What the linter compares with a limit: the assertion, its error, and where the number is."""

    name: str
    check: Callable[..., Diagnosis]
    error: type[GradientHealthError]
    number: Callable[[Diagnosis], float]
    of_step: bool = False
    after_training: bool = False

    def asked(self, recipe: Recipe) -> dict[str, Any]:
        """What the assertion is told of a recipe."""
        step = {
            "optimizer": recipe.optimizer,
            "clip": recipe.clip,
            "regularizer": recipe.penalty,
        }
        return {"loss": cross_entropy, **(step if self.of_step else {})}


@dataclass(frozen=True)
class Pair:
    """A remedy, the network that needs it and the network that has it."""

    remedy: str
    symptom: Symptom
    sick: Recipe
    cured: Recipe


@dataclass(frozen=True)
class Trained:
    """A network after training: the mean loss of the last ten steps, accuracy on test digits."""

    model: nn.Module
    loss: float
    accuracy: float

    @property
    def learned(self) -> bool:
        """Whether it reads digits."""
        return self.loss < 1.0 and self.accuracy > 0.6

    @property
    def failed(self) -> bool:
        """Whether it is no better off than by guessing, log(10) = 2.3; NaN is not either."""
        return not self.loss < 2.0


@dataclass(frozen=True)
class Measured:
    """What the linter says of a recipe, and what training makes of it."""

    number: float
    passes: bool
    trained: Trained


def _shrinkage(diagnosis: Diagnosis) -> float:
    path = diagnosis.worst_path
    return math.nan if path is None else math.pow(10, path.vanishing)


def _growth(diagnosis: Diagnosis) -> float:
    path = diagnosis.worst_path
    return math.nan if path is None else math.pow(10, path.exploding)


def _update(diagnosis: Diagnosis) -> float:
    made = diagnosis.profile.updates
    return max(u.change if u.finite else math.inf for u in made)


def _penalty(diagnosis: Diagnosis) -> float:
    weights = [p for p in diagnosis.profile.parameters if len(p.shape) > 1]
    return max(p.penalty / p.gradient for p in weights if p.penalty and p.gradient)


VANISHING = Symptom(
    "gradient, first layer / last", assert_no_vanishing, VanishingGradientError, _shrinkage
)
EXPLODING = Symptom(VANISHING.name, assert_no_exploding, ExplodingGradientError, _growth)
STILL_EXPLODING = replace(EXPLODING, name=f"{EXPLODING.name}, trained", after_training=True)
WILD_STEP = Symptom(
    "change of a weight in a step",
    assert_no_exploding_update,
    ExplodingUpdateError,
    _update,
    of_step=True,
)
DROWNED = Symptom(
    "gradient, penalty / data",
    assert_no_dominating_regularizer,
    DominatingRegularizerError,
    _penalty,
    of_step=True,
)


def adam(lr: float) -> Optimizing:
    """Return a factory of Adam."""
    return partial(torch.optim.Adam, lr=lr)


def sgd(lr: float, *, momentum: float = 0.0, weight_decay: float = 0.0) -> Optimizing:
    """Return a factory of stochastic gradient descent."""
    return partial(torch.optim.SGD, lr=lr, momentum=momentum, weight_decay=weight_decay)


def trained(recipe: Recipe, training: Digits, test: Digits, *, seed: int = 0) -> Trained:
    """Build a network and train it; a terminal shows the progress."""
    torch.manual_seed(seed)
    model = recipe.model()
    epochs = math.ceil(recipe.steps * BATCH / len(training[1]))
    losses = train(
        model,
        batches(*training, epochs=epochs, seed=seed)[: recipe.steps],
        optimizer=recipe.optimizer,
        clip=recipe.clip,
        penalty=recipe.penalty,
        title=recipe.what,
    )
    return Trained(model, fmean(losses[-10:]), accuracy(model, *test))


def measured(
    recipe: Recipe, symptom: Symptom, training: Digits, test: Digits, *, seed: int = 0
) -> Measured:
    """Ask the linter about a recipe and train it."""
    after = trained(recipe, training, test, seed=seed)
    torch.manual_seed(seed)
    model = after.model if symptom.after_training else recipe.model()
    number, passes = judged(model, recipe, symptom, training)
    return Measured(number, passes, after)


def judged(
    model: nn.Module, recipe: Recipe, symptom: Symptom, training: Digits
) -> tuple[float, bool]:
    """Ask the linter: return the number that it compares, and whether the network passes."""
    batch = training[0][:BATCH], training[1][:BATCH]
    try:
        diagnosis = symptom.check(model, *batch, remedy_budget=0, **symptom.asked(recipe))
        return symptom.number(diagnosis), True
    except GradientHealthError as error:
        if error.diagnosis is None:
            raise
        return symptom.number(error.diagnosis), False


def rejected(recipe: Recipe, symptom: Symptom, reason: str) -> Callable[..., None]:
    """Return a test that the linter rejects a network under every seed, a strict xfail."""

    @pytest.mark.xfail(strict=True, raises=symptom.error, reason=reason)
    def test(gradhealth: GradHealth, batch: Digits) -> None:
        check = getattr(gradhealth, symptom.check.__name__)
        check(recipe.model, *batch, seeds=SEEDS, **symptom.asked(recipe))

    return test


@one_thread()
def show(*pairs: Pair) -> None:
    """Train both networks of each pair on the digits shipped here and print what came of it."""
    training, test = load_digits(train=True), load_digits(train=False)
    for pair in pairs:
        print(f"{pair.remedy}\n{'':50}{pair.symptom.name:>40}      loss  accuracy")
        for recipe in (pair.sick, pair.cured):
            found = measured(recipe, pair.symptom, training, test)
            verdict = "passes" if found.passes else "fails"
            print(
                f"{recipe.what:50}{f'x{found.number:.2g} {verdict}':>40}"
                f"{found.trained.loss:10.3g}{found.trained.accuracy:10.0%}"
            )
        print()

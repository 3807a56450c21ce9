"""What came of a remedy, from numbers alone."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations

import pytest

from pytest_gradhealth.config.values import FEWEST
from pytest_gradhealth.remedies.outcome import (
    Comparison,
    Examined,
    gain,
    is_same,
    merit,
    outcome_of,
    patience_with,
    trains_alike,
)
from pytest_gradhealth.results.diagnosis import Measure, Outcome, Treatment
from pytest_gradhealth.results.yardstick import Yardstick
from pytest_gradhealth.rules import built_in_rules
from pytest_gradhealth.training.learning import LEAST, STEPS

GUESS = Yardstick(constant=2.3)
GOAL = Comparison(("GH101",), GUESS, larger=True)
SICK = Measure(1e-8, 2.4, 2.3, 60)
PASSES = Examined()
FAILS = Examined(failing=frozenset({"GH101"}))

RISES = "the loss rises in training"
GUESSES = "still no better than one answer for all, whose loss is 2.3"


@pytest.mark.parametrize(
    ("after", "seen", "outcome", "reason"),
    [
        (Measure(0.5, 2.4, 1.0, 29), PASSES, "cured", ""),
        (
            Measure(0.5, 2.4, 1.0, 29),
            Examined(warning=frozenset({"GH201"})),
            "cured",
            "GH201 warns",
        ),
        (
            Measure(0.0, 2.4, 1.0, 29),
            PASSES,
            "better",
            "no gradient gets there before the first step",
        ),
        (Measure(0.5, 11.0, 2.26, 60), PASSES, "better", GUESSES),
        (
            Measure(0.5, 40.0, 22.0, 60),
            PASSES,
            "better",
            "still worse than one answer for all, whose loss is 2.3",
        ),
        (Measure(0.5, 2.4, 2.29, 20), PASSES, "better", GUESSES),
        (Measure(0.5, 2.4, 2.4, 60), PASSES, "better", GUESSES),
        (Measure(0.5), PASSES, "better", ""),
        (
            Measure(1e9, 2.4, 1.0, 29),
            Examined(failing=frozenset({"GH201", "GH301"})),
            "no effect",
            "fails GH201 and GH301 instead",
        ),
        (
            Measure(0.5, 2.4, math.nan, 3),
            PASSES,
            "worse",
            "the loss does not stay finite",
        ),
        (Measure(1e-7, 2.4, 2.3, 60), FAILS, "better", ""),
        (Measure(2e-8, 2.4, 1.0, 29), FAILS, "better", ""),
        (Measure(2e-8, 2.4, 2.3, 60), FAILS, "no effect", ""),
        (Measure(1e-8, 2.4, 2.3, 60), FAILS, "no effect", ""),
        (Measure(1e-9, 2.4, 2.3, 60), FAILS, "worse", ""),
        (Measure(0.0, 2.4, 2.3, 60), FAILS, "worse", ""),
    ],
)
def test_before_and_after_make_an_outcome(
    after: Measure, seen: Examined, outcome: Outcome, reason: str
) -> None:
    assert outcome_of(GOAL, SICK, after, seen) == (outcome, reason)


def test_a_training_without_time_to_decide_says_so() -> None:
    after = Measure(0.5, 2.4, 2.2, 12)
    reason = "there was time for 12 of 60 steps only"
    assert outcome_of(GOAL, SICK, after, PASSES, cut=True) == ("better", reason)


def test_a_gain_is_a_move_in_the_right_direction() -> None:
    assert gain(1e-8, 1e-5, larger=True) == pytest.approx(3)
    assert gain(1e8, 1e5, larger=False) == pytest.approx(3)
    assert gain(math.inf, 1.0, larger=False) == math.inf
    assert gain(0.0, 1e-30, larger=True) == math.inf
    assert gain(0.0, 0.0, larger=True) == 0
    assert gain(0.0, 1e4, larger=False) == 0, "a loss of zero has no gradient"
    assert gain(None, 1.0, larger=False) == gain(1.0, None, larger=False) == 0


def test_less_is_better_for_every_rule_but_those_on_too_little() -> None:
    compared = {rule.code: rule.quantity for rule in built_in_rules() if rule.quantity is not None}
    larger = [code for code, quantity in compared.items() if quantity.better == "larger"]
    assert larger == ["GH101", "GH102", "GH404"]
    assert [*compared] == [
        *("GH101", "GH102", "GH201", "GH202", "GH203", "GH402", "GH403", "GH404", "GH603")
    ]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (SICK, Measure(0.5, 0.9, 50.0, 60), ("worse", RISES)),
        (Measure(1e-8, 50.0, 50.0, 60), Measure(0.5, 0.9, 50.0, 60), ("no effect", RISES)),
        (Measure(1e-8, 1e8, math.inf, 9), Measure(0.5, 1e8, 3e13, 60), ("no effect", RISES)),
        (Measure(1e-8, 1e8, 1e7, 60), Measure(1e-2, 1e8, 3e13, 60), ("worse", RISES)),
        (
            Measure(1e-8, 1.0, math.nan, 9),
            Measure(1e-2, 1.0, math.nan, 9),
            ("no effect", "the loss does not stay finite"),
        ),
    ],
)
@pytest.mark.parametrize("seen", [PASSES, FAILS])
def test_what_trains_worse_is_never_better(
    before: Measure, after: Measure, expected: tuple[Outcome, str], seen: Examined
) -> None:
    assert outcome_of(GOAL, before, after, seen) == expected


@pytest.mark.parametrize(
    ("spread", "reason"),
    [
        (1.0, "its loss can be negative, and falls by too little to tell learning"),
        (math.nan, "its loss can be negative, and nothing tells how far that has to fall"),
    ],
)
def test_a_loss_without_a_zero_says_why_nothing_is_cured(spread: float, reason: str) -> None:
    after = Measure(0.5, -0.05, -0.1, 60)
    goal = Comparison(("GH101",), Yardstick(spread=spread), larger=True)
    assert outcome_of(goal, SICK, after, PASSES) == ("better", reason)


def test_a_fall_that_may_be_one_answer_for_all_is_no_cure_of_what_warns() -> None:
    """Where nothing tells the loss that one answer has, the start stands for it."""
    fallen, warns = Measure(0.5, 8.9, 4.0, 20), Examined(warning=frozenset({"GH101"}))
    guessed = Comparison(("GH101",), Yardstick(8.9, guessed=True), larger=True)
    reason = "GH101 warns, and a fall may be that of one answer for all"
    assert outcome_of(guessed, SICK, fallen, warns) == ("better", reason)
    assert outcome_of(guessed, SICK, fallen, PASSES) == ("cured", "")
    known = replace(guessed, yardstick=Yardstick(8.9))
    assert outcome_of(known, SICK, fallen, warns) == ("cured", "GH101 warns")


def test_a_guess_is_not_called_one_answer_for_all() -> None:
    guessed = Comparison(("GH101",), Yardstick(9.6e6, guessed=True), larger=True)
    after = Measure(0.5, 1.39, 1.386, 60)
    reason = "the loss falls by less than a tenth"
    assert outcome_of(guessed, SICK, after, PASSES) == ("better", reason)
    after = Measure(0.5, 2e7, 9.5e6, 60)
    reason = "still no better than the model as it is, whose loss is 9.6e+06"
    assert outcome_of(guessed, SICK, after, PASSES) == ("better", reason)


@pytest.mark.parametrize(
    ("seen", "before", "patience"),
    [
        (PASSES, SICK, STEPS),
        (Examined(warning=frozenset({"GH201"})), SICK, STEPS),
        (Examined(warning=frozenset({"GH101"})), SICK, LEAST),
        (replace(FAILS, value=1e-8), SICK, FEWEST),
        (replace(FAILS, value=1e-7), SICK, 0),
        (replace(FAILS, value=10**-7.55), SICK, FEWEST),
        (replace(FAILS, value=10**-7.45), SICK, 0),
        (replace(FAILS, value=1e-9), SICK, FEWEST),
        (FAILS, SICK, FEWEST),
        (replace(FAILS, value=1e-7), Measure(), FEWEST),
    ],
)
def test_there_is_patience_with_what_may_be_cured(
    seen: Examined, before: Measure, patience: int
) -> None:
    assert patience_with(seen, GOAL, before) == patience


@pytest.mark.parametrize(
    ("steps", "seen", "told"),
    [
        (LEAST - 1, PASSES, True),
        (LEAST - 1, Examined(warning=frozenset({"GH201"})), True),
        (LEAST, PASSES, False),
        (LEAST - 1, Examined(warning=frozenset({"GH101"})), False),
        (LEAST - 1, FAILS, False),
    ],
)
def test_what_a_quick_training_shows_holds_for_draws_without_the_fault(
    steps: int, seen: Examined, told: bool
) -> None:
    assert trains_alike(Measure(0.5, 2.4, 1.0, steps), seen, GOAL) == told


def test_trainings_are_the_same_if_their_losses_are() -> None:
    losses = [2.4 - 0.01 * step for step in range(FEWEST)]
    assert is_same(losses, [1.005 * loss for loss in losses])
    assert not is_same(losses, [*losses[:-1], 1.02 * losses[-1]])
    assert not is_same(losses, [*losses, losses[-1]]), "it ended elsewhere"
    assert not is_same(losses[1:], losses[1:]), "too short to tell"


def test_the_best_comes_first_whatever_the_order() -> None:
    def treatment(outcome: Outcome, after: Measure | None = None, reason: str = "") -> Treatment:
        return Treatment("a remedy", outcome, "GH101", SICK, after, reason=reason)

    best = [
        treatment("cured", Measure(1.0, 2.4, 1.1, 5)),
        treatment("cured", Measure(1.0, 2.4, 1.0, 9)),
        treatment("cured", Measure(1.0, 2.4, 1.1, 9)),
        treatment("cured", Measure(1.0, 2.4, 0.9, 4), "GH201 warns"),
        treatment("better", Measure(1.0, 2.4, 2.3, 60)),
        treatment("cannot"),
    ]
    for order in permutations(best):
        assert sorted(order, key=merit) == best

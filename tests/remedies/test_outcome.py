"""What came of a remedy, from numbers alone."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gradhealth.measure.constant_predictor import Yardstick
from pytest_gradhealth.remedies.outcome import (
    LEAST,
    STEPS,
    Comparison,
    Examined,
    gain,
    is_clear,
    learns,
    merit,
    outcome_of,
    rises,
)
from pytest_gradhealth.results.diagnosis import Measure, Outcome, Treatment
from pytest_gradhealth.rules import built_in_rules

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
        (Measure(0.5, 11.0, 2.26, 60), PASSES, "better", GUESSES),
        (
            Measure(0.5, 40.0, 22.0, 60),
            PASSES,
            "better",
            "still worse than one answer for all, whose loss is 2.3",
        ),
        (
            Measure(0.5, 2.4, 2.2, 12),
            PASSES,
            "better",
            "there was time for 12 of 60 steps only",
        ),
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


def test_a_gain_is_a_move_in_the_right_direction() -> None:
    assert gain(1e-8, 1e-5, larger=True) == pytest.approx(3)
    assert gain(1e8, 1e5, larger=False) == pytest.approx(3)
    assert gain(math.inf, 1.0, larger=False) == math.inf
    assert gain(0.0, 1e-30, larger=True) == math.inf
    assert gain(0.0, 0.0, larger=True) == 0
    assert gain(None, 1.0, larger=False) == gain(1.0, None, larger=False) == 0


def test_less_is_better_for_every_rule_but_those_on_too_little() -> None:
    compared = {rule.code: rule.quantity for rule in built_in_rules() if rule.quantity is not None}
    larger = [code for code, quantity in compared.items() if quantity.better == "larger"]
    assert larger == ["GH101", "GH102", "GH404"]
    assert [*compared] == [
        *("GH101", "GH102", "GH201", "GH202", "GH203", "GH402", "GH403", "GH404")
    ]


@pytest.mark.parametrize(
    ("start", "end", "yardstick", "expected"),
    [
        (2.4, 2.0, GUESS, True),
        (2.4, 2.2, GUESS, False),  # falls, but no constant answer is worse
        (11.0, 2.26, GUESS, False),
        (1.0, 0.95, GUESS, False),  # below the constant answer from the start
        (1.0, 0.85, GUESS, True),
        (2.4, 2.0, Yardstick(), True),
        (2.4, math.nan, GUESS, False),
        (math.inf, 1.0, GUESS, False),
        (-0.05, -0.1, Yardstick(), False),  # nothing says how much that is
        (-0.05, -0.1, Yardstick(spread=1.0), False),
        (-0.05, -0.6, Yardstick(spread=1.0), True),
        (0.3, 0.1, Yardstick(spread=1.0, can_be_negative=True), False),
        (0.9, 0.1, Yardstick(spread=1.0, can_be_negative=True), True),
        (0.9, 0.1, Yardstick(0.05, spread=1.0, can_be_negative=True), False),
    ],
)
def test_a_model_learns_if_its_loss_falls_below_every_mark(
    start: float, end: float, yardstick: Yardstick, expected: bool
) -> None:
    assert learns(Measure(0.5, start, end, STEPS), yardstick) == expected


def test_nobody_has_learned_after_two_steps() -> None:
    assert not learns(Measure(0.5, 2.4, 0.1, 2), GUESS)
    assert not learns(Measure(0.5, 2.4, 0.1, LEAST - 1), GUESS)
    assert learns(Measure(0.5, 2.4, 0.1, LEAST), GUESS)
    likelihood = Yardstick(spread=1.0)
    assert not learns(Measure(0.5, -1.0, -9.0, LEAST), likelihood)
    assert learns(Measure(0.5, -1.0, -9.0, STEPS), likelihood)


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


def test_noise_is_no_rise() -> None:
    assert not rises(Measure(0.5, 1.0, 1.05, 60), GUESS)
    assert not rises(Measure(0.5, -0.01, 0.05, 60), Yardstick(spread=1.0))
    assert rises(Measure(0.5, -0.01, 0.6, 60), Yardstick(spread=1.0))
    assert not rises(Measure(0.5, 3.2, 9.5, LEAST - 1), GUESS), "first steps may lead up"
    assert not rises(Measure(0.5), GUESS)


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


@given(
    st.floats(1e-3, 1e3),
    st.floats(1e-6, 1e6),
    st.floats(1e-3, 1e3),
    st.floats(1e-3, 1e3),
)
def test_the_scale_of_the_loss_does_not_matter(
    end: float, scale: float, start: float, floor: float
) -> None:
    here = Measure(1.0, start, end, 60)
    there = Measure(1.0, start * scale, end * scale, 60)
    near = any(abs(end - 0.9 * mark) < 1e-9 * mark for mark in (start, floor))
    assert near or learns(here, Yardstick(floor)) == learns(there, Yardstick(floor * scale))


def test_a_training_ends_when_the_loss_has_halved_or_is_lost() -> None:
    def training(start: float, end: float, steps: int = LEAST) -> list[float]:
        return [start, *[end] * (steps - 1)]

    assert not is_clear([2.4], GUESS)
    assert not is_clear(training(2.4, 1.2), GUESS)
    assert is_clear(training(2.4, 1.14), GUESS)
    assert not is_clear(training(2.4, 1.14, LEAST - 1), GUESS)
    assert not is_clear(training(4e4, 10.0), GUESS)
    assert is_clear(training(4e4, 10.0), Yardstick())
    assert not is_clear(training(-1.0, -9.0), Yardstick())
    assert not is_clear(training(1.0, 0.1), Yardstick(can_be_negative=True))
    assert is_clear([2.4, math.inf], GUESS)


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

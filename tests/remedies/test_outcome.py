"""What came of a remedy, from numbers alone."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gradhealth.remedies.outcome import (
    Comparison,
    Examined,
    gain,
    is_clear,
    learns,
    merit,
    outcome_of,
)
from pytest_gradhealth.results.diagnosis import Measure, Outcome, Treatment
from pytest_gradhealth.rules import built_in_rules

GOAL = Comparison(("GH101",), floor=2.3, steps=60, larger=True)
SICK = Measure(1e-8, 2.4, 2.3, 60)
PASSES = Examined()
FAILS = Examined(failing=frozenset({"GH101"}))

GUESSES = "still no better than one answer for all, whose loss is 2.3"


@pytest.mark.parametrize(
    ("after", "seen", "outcome", "reason"),
    [
        (Measure(0.5, 2.4, 1.0, 9), PASSES, "cured", ""),
        (
            Measure(0.5, 2.4, 1.0, 9),
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
            Measure(1e9, 2.4, 1.0, 9),
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
        (Measure(2e-8, 2.4, 1.0, 9), FAILS, "better", ""),
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
    ("start", "end", "floor", "expected"),
    [
        (2.4, 2.0, 2.3, True),
        (2.4, 2.2, 2.3, False),  # falls, but no constant answer is worse
        (11.0, 2.26, 2.3, False),
        (1.0, 0.95, 2.3, False),  # below the constant answer from the start
        (1.0, 0.85, 2.3, True),
        (2.4, 2.0, math.nan, True),
        (-1.0, -1.2, math.nan, True),
        (-1.0, -1.05, math.nan, False),
        (2.4, math.nan, 2.3, False),
    ],
)
def test_a_model_learns_if_its_loss_falls_below_every_mark(
    start: float, end: float, floor: float, expected: bool
) -> None:
    assert learns(Measure(0.5, start, end, 60), floor) == expected


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
    assert near or learns(here, floor) == learns(there, floor * scale)


def test_a_training_ends_when_the_loss_has_halved_or_is_lost() -> None:
    assert not is_clear([2.4], 2.3)
    assert not is_clear([2.4, 1.2], 2.3)
    assert is_clear([2.4, 1.14], 2.3)
    assert not is_clear([4e4, 10.0], 2.3)
    assert is_clear([4e4, 10.0], math.nan)
    assert not is_clear([-1.0, -1.4], math.nan)
    assert is_clear([-1.0, -1.6], math.nan)
    assert is_clear([2.4, math.inf], 2.3)


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

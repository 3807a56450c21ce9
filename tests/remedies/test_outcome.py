"""What came of a remedy, from numbers alone."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gradhealth.measure.constant_predictor import Yardstick
from pytest_gradhealth.remedies.outcome import (
    AGREEING,
    CALM,
    FEWEST,
    LEAST,
    LONG,
    STEPS,
    Comparison,
    Examined,
    gain,
    is_decided,
    is_same,
    learns,
    merit,
    outcome_of,
    patience_with,
    rises,
    trains_alike,
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
        (Measure(0.5, 2.4, 2.29, 20), PASSES, "better", GUESSES),
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
    assert not learns(Measure(0.5, 2.4, 0.1, FEWEST - 1), GUESS)
    assert learns(Measure(0.5, 2.4, 0.1, FEWEST), GUESS)
    assert not learns(Measure(0.5, 2.4, 1.2, LEAST - 1), GUESS)
    assert learns(Measure(0.5, 2.4, 1.2, LEAST), GUESS)
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


def falling(start: float, *ends: float, steps: int) -> list[float]:
    """Losses that end with some in turns, and fall by as much in each step before."""
    last = [ends[i % len(ends)] for i in range(AGREEING)]
    before = steps - len(last)
    return [start + (max(ends) - start) * i / before for i in range(before)] + last


@pytest.mark.parametrize(
    ("losses", "yardstick", "decided"),
    [
        ([2.4], GUESS, False),
        ([2.4, math.inf], GUESS, True),
        (falling(2.4, 1.1, steps=FEWEST), GUESS, True),
        (falling(2.4, 1.1, steps=FEWEST - 1), GUESS, False),
        (falling(2.4, 1.0, 1.3, steps=FEWEST), GUESS, False),  # up and down
        (falling(2.4, 1.7, 1.8, steps=LEAST), GUESS, True),
        (falling(2.4, 1.7, 1.8, steps=LEAST - 1), GUESS, False),
        (falling(2.4, 1.7, 1.9, steps=LEAST), GUESS, False),
        (falling(4e4, 10.0, 11.0, steps=LEAST), GUESS, False),  # no constant answer is worse
        (falling(4e4, 10.0, steps=LEAST), Yardstick(), True),
        (falling(-1.0, -9.0, steps=LEAST), Yardstick(), False),  # nothing says how much that is
        (falling(1.0, 0.1, steps=LEAST), Yardstick(can_be_negative=True), False),
    ],
)
@pytest.mark.parametrize("patience", [FEWEST, LEAST, STEPS])
def test_a_training_ends_when_the_loss_is_low_twice_over_or_lost(
    losses: list[float], yardstick: Yardstick, decided: bool, patience: int
) -> None:
    assert is_decided(losses, yardstick, patience) == decided


@pytest.mark.parametrize("patience", [FEWEST, LEAST, STEPS])
def test_a_training_ends_when_the_loss_stands_still(patience: int) -> None:
    def ends(losses: list[float]) -> list[int]:
        return [n for n in range(1, STEPS + 1) if is_decided(losses[:n], GUESS, patience)]

    plateau = [2.4, *[2.3, 2.28 if patience == FEWEST else 2.297] * STEPS]
    assert ends(plateau) == list(range(patience, STEPS + 1))
    slow = [2.4 - 0.0012 * step for step in range(STEPS)]
    assert ends(slow) == (list(range(FEWEST, STEPS + 1)) if patience == FEWEST else [STEPS])
    assert ends([2.2, *plateau[1:]]) == [STEPS], "it has risen, and may yet come down"
    falling = [2.4 - 0.006 * step for step in range(STEPS)]
    assert ends(falling) == [STEPS] * (patience == FEWEST), "others may yet be cured"


@pytest.mark.parametrize(("patience", "decided"), [(FEWEST, FEWEST), (LEAST, 112), (STEPS, 112)])
def test_what_was_asleep_is_trained_as_long_as_its_loss_falls(patience: int, decided: int) -> None:
    """It has hardly fallen by step 60, and is low from step 110 on."""
    begins = [2.4 - 0.003 * step for step in range(50)]
    waking = [*begins, *(2.25 - 0.007 * step for step in range(LONG))]
    found = (n for n in range(1, LONG) if is_decided(waking[:n], GUESS, patience))
    assert next(found, None) == decided


def test_a_training_that_falls_no_more_ends_with_the_others() -> None:
    arrived = [2.4 - 0.006 * min(step, 38) for step in range(LONG)]
    assert is_decided(arrived[:STEPS], GUESS, STEPS)
    assert not is_decided([*arrived[: STEPS - AGREEING], *[2.0] * AGREEING], GUESS, STEPS)


@pytest.mark.parametrize(("last", "decided"), [(0.02, 1 + CALM), (0.03, None)])
def test_what_may_run_away_is_trained_until_it_has_been_calm(
    last: float, decided: int | None
) -> None:
    losses = [2.4, *[last] * LONG]
    found = (n for n in range(1, LONG) if is_decided(losses[:n], GUESS, STEPS, steady=False))
    assert next(found, None) == decided


@pytest.mark.parametrize(
    ("last", "patience", "decided"),
    [
        (0.5, STEPS, None),  # low, and may yet run away
        (0.5, 0, STEPS),  # better is all that it is to be
        (2.39, STEPS, STEPS),  # not low by then
        (2.39, FEWEST, FEWEST),
        (math.nan, STEPS, 1 + FEWEST),
    ],
)
def test_a_training_that_may_run_away_goes_on_while_it_is_low(
    last: float, patience: int, decided: int | None
) -> None:
    losses = [2.4, *[min(last, 2.39) if last == last else 0.5] * (FEWEST - 1), *[last] * LONG]
    found = (n for n in range(1, LONG) if is_decided(losses[:n], GUESS, patience, steady=False))
    assert next(found, None) == decided


def test_a_fall_that_may_be_one_answer_for_all_is_no_cure_of_what_warns() -> None:
    """Where nothing tells the loss that one answer has, the start stands for it."""
    fallen, warns = Measure(0.5, 8.9, 4.0, 20), Examined(warning=frozenset({"GH101"}))
    guessed = Comparison(("GH101",), Yardstick(8.9, guessed=True), larger=True)
    reason = "GH101 warns, and a fall may be that of one answer for all"
    assert outcome_of(guessed, SICK, fallen, warns) == ("better", reason)
    assert outcome_of(guessed, SICK, fallen, PASSES) == ("cured", "")
    known = replace(guessed, yardstick=Yardstick(8.9))
    assert outcome_of(known, SICK, fallen, warns) == ("cured", "GH101 warns")


def test_where_anything_but_a_rise_will_do_a_training_ends_when_there_is_none() -> None:
    def ends(*losses: float) -> list[int]:
        return [n for n in range(1, len(losses) + 1) if is_decided(losses[:n], GUESS, 0)]

    assert ends(*[2.4, 2.39] * FEWEST) == list(range(FEWEST, 2 * FEWEST + 1))
    assert ends(2.4, *[2.5] * FEWEST, *[2.4] * AGREEING) == [1 + FEWEST + AGREEING]


@pytest.mark.parametrize(
    ("seen", "before", "patience"),
    [
        (PASSES, SICK, STEPS),
        (Examined(warning=frozenset({"GH201"})), SICK, STEPS),
        (Examined(warning=frozenset({"GH101"})), SICK, LEAST),
        (replace(FAILS, value=1e-8), SICK, FEWEST),
        (replace(FAILS, value=1e-7), SICK, 0),
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

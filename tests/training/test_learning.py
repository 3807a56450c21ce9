"""Whether a training has learned, from numbers alone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gradhealth.config.values import FEWEST
from pytest_gradhealth.results.diagnosis import Measure
from pytest_gradhealth.results.yardstick import Yardstick
from pytest_gradhealth.training.learning import (
    AGREEING,
    LEAST,
    LONG,
    STEPS,
    course_of,
    goal_of,
    is_decided,
    learns,
    rises,
)

GUESS = Yardstick(constant=2.3)


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


def test_noise_is_no_rise() -> None:
    assert not rises(Measure(0.5, 1.0, 1.05, 60), GUESS)
    assert not rises(Measure(0.5, -0.01, 0.05, 60), Yardstick(spread=1.0))
    assert rises(Measure(0.5, -0.01, 0.6, 60), Yardstick(spread=1.0))
    assert not rises(Measure(0.5, 3.2, 9.5, LEAST - 1), GUESS), "first steps may lead up"
    assert not rises(Measure(0.5), GUESS)


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
    assert ends([2.4 - 0.006 * step for step in range(STEPS)]) == [STEPS]


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


def test_where_anything_but_a_rise_will_do_a_training_ends_when_there_is_none() -> None:
    def ends(*losses: float) -> list[int]:
        return [n for n in range(1, len(losses) + 1) if is_decided(losses[:n], GUESS, 0)]

    assert ends(*[2.4, 2.39] * FEWEST) == list(range(FEWEST, 2 * FEWEST + 1))
    assert ends(2.4, *[2.5] * FEWEST, *[2.4] * AGREEING) == [1 + FEWEST + AGREEING]


@pytest.mark.parametrize(
    ("start", "yardstick", "goal", "held_against"),
    [
        (10.0, Yardstick(), 9.0, "start"),
        (10.0, Yardstick(constant=20.0), 9.0, "start"),
        (10.0, Yardstick(constant=2.0), 1.98, "constant"),
        (-1.0, Yardstick(), -1.1, "start"),
        (-1.0, Yardstick(spread=4.0), -1.4, "spread"),
        (1.0, Yardstick(spread=4.0), 0.9, "start"),
        (1.0, Yardstick(spread=4.0, can_be_negative=True), 0.6, "spread"),
        (1.0, Yardstick(-2.0, spread=4.0, can_be_negative=True), -2.02, "constant"),
    ],
)
def test_the_goal_is_below_the_start_and_one_answer(
    start: float, yardstick: Yardstick, goal: float, held_against: str
) -> None:
    assert goal_of(start, yardstick)[0] == pytest.approx(goal)
    assert goal_of(start, yardstick)[1] == held_against


def course(losses: list[float], yardstick: Yardstick = GUESS) -> tuple[str | None, int]:
    """What becomes of a training of at most 60 steps, and after how many."""
    goal, _ = goal_of(losses[0], yardstick)
    for made in range(1, len(losses) + 1):
        found = course_of(losses[:made], goal, yardstick, 60)
        if found is not None:
            return found, made
    return None, len(losses)


LONGEST = 180


@pytest.mark.parametrize(
    ("losses", "yardstick", "found"),
    [
        ([2.4, *[2.0] * 60], GUESS, ("learned", FEWEST)),
        ([2.4, 2.0, 2.5] * 60, GUESS, ("stuck", 60)),
        ([2.4] * 20, GUESS, ("stuck", 20)),  # to the last digit
        ([2.4] * 19 + [2.4001] * 2, GUESS, (None, 21)),
        ([*[2.4, 2.41, 2.4] * 19, 2.4, 2.41, 2.0], GUESS, ("stuck", 60)),  # one low loss of many
        ([2.4, math.nan], GUESS, ("not finite", 2)),
        ([2.4, *[3.0, 3.1] * 30], GUESS, ("rising", 60)),
        ([2.4, *[2.5, 2.6] * 30], GUESS, ("stuck", 60)),
        # What falls by a thousandth of what is left in twenty steps still falls.
        ([2.4 - 2e-5 * k for k in range(LONGEST)], GUESS, ("falling", LONGEST)),
        ([2.4 - 5e-6 * k for k in range(LONGEST)], GUESS, ("stuck", 60)),
        # So does what falls faster and faster, however little.
        ([2.4 - 1e-4 * 1.06**k for k in range(LONGEST)], GUESS, ("learned", 137)),
        # It comes to one answer for all, and no further.
        ([2.3 + 0.1 * 0.5**k for k in range(60)], GUESS, ("stuck", 39)),
        ([2.2 + 0.1 * 0.9**k for k in range(LONGEST)], GUESS, ("settled", 120)),
        # Nobody knows how far it could.
        ([2.3 + 0.1 * 0.9**k for k in range(LONGEST)], Yardstick(), ("settled", 120)),
        ([2.39 + 0.01 * 0.9**k for k in range(LONGEST)], Yardstick(), ("stuck", 120)),
        # There was nothing left to learn.
        ([0.02], GUESS, ("learned", 1)),
        ([0.0], Yardstick(), ("learned", 1)),
        ([0.0], Yardstick(can_be_negative=True), (None, 1)),
    ],
)
def test_what_becomes_of_a_training(
    losses: list[float], yardstick: Yardstick, found: tuple[str | None, int]
) -> None:
    assert course(losses, yardstick) == found


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=LONGEST), st.floats(1e-3, 1e3))
def test_the_unit_of_the_loss_makes_no_difference(losses: list[float], scale: float) -> None:
    scale = 2.0 ** round(math.log2(scale))  # which does not round
    here, there = (course([s * x for x in losses], Yardstick(2.3 * s)) for s in (1.0, scale))
    assert here == there

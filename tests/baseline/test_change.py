"""Growth and loss, and which of them is worse."""

from __future__ import annotations

import math

import pytest
from hypothesis import given

from pytest_gradhealth.baseline.change import Change, effect, moved, movement
from pytest_gradhealth.results.diagnosis import Limit
from tests.helpers.baselines import DECADES, NORMS, compared, path

LIMIT = Limit(0.5, "default")


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (0.92, -1.51, "it lost 2.43 decades; limit 0.5, default"),
        (-1.51, 0.92, "it grew by 2.43 decades; limit 0.5, default"),
        (0.92, -0.92, "it lost 1.84 decades; limit 0.5, default"),
        (0.0, -0.51, "it lost 0.51 decades; limit 0.5, default"),
        (0.3, 1.3, "it grew by 1 decades; limit 0.5, default"),
        (-4.0, 0.2, "it grew by 4.2 decades, towards x1"),
        (2.0, 0.1, "it lost 1.9 decades, towards x1"),
        (-1.0, -math.inf, "nothing is left; limit 0.5, default"),
        (-1.0, math.inf, "it is not finite; limit 0.5, default"),
        (-1.0, math.nan, "it is not finite; limit 0.5, default"),
        (-math.inf, -1.0, "there was none"),
        (-math.inf, 3.0, "there was none"),
        (math.nan, 0.5, "it was not finite"),
    ],
)
def test_the_way_that_a_ratio_has_gone_is_told(before: float, after: float, words: str) -> None:
    assert movement(before, after, LIMIT) == words
    assert ("limit" in words) is (effect(before, after, LIMIT.value) == "worse")


def test_a_ratio_that_has_passed_level_is_told_by_all_that_it_has_moved() -> None:
    """From x8.3 to x0.031, whose distances from level differ by 0.59 decades."""
    before = path(("0", "Linear", 0.92), ("1", "ReLU", 0.5), ("2", "Linear", 0.0))
    after = path(("0", "Linear", -1.51), ("1", "ReLU", -0.5), ("2", "Linear", 0.0))
    messages = [change.message for change in compared(before, after).worse]
    assert messages[0] == (
        "x0.031 of the gradient reaches 0 (Linear); it was x8.3 (it lost 2.43 decades; limit 0.5,"
        " default)"
    )


@given(NORMS, NORMS)
def test_nothing_within_the_limit_is_told_and_no_way_back_is_better_than_better(
    before: float, after: float
) -> None:
    there, back = effect(before, after, 0.5), effect(after, before, 0.5)
    assert {there, back} != {"better"}
    if abs(moved(before, after)) <= 0.5:
        assert (there, back) == ("", "")


@given(DECADES, DECADES)
def test_growth_and_loss_are_judged_alike(before: float, after: float) -> None:
    assert effect(before, after, 0.5) == effect(-before, -after, 0.5)


@pytest.mark.parametrize(
    ("kind", "fails"), [("lost", "regression"), ("path", "regression"), ("gone", "layers")]
)
def test_what_a_change_fails(kind: str, fails: str) -> None:
    change = Change(kind, True, "0", "")  # type: ignore[arg-type]
    assert change.fails == fails
    assert Change(kind, False, "0", "").fails == ""  # type: ignore[arg-type]

"""Which layer of before is which layer of now."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gradhealth.baseline.alignment import Pair, aligned, path_pairs
from pytest_gradhealth.baseline.entry import KeptPoint
from tests.helpers.baselines import POINTS, path


def test_layers_are_the_same_by_name_then_by_type_in_order() -> None:
    before = path(("a", "Linear", 0.0), ("b", "ReLU", 0.0), ("c", "Linear", 0.0))
    after = path(("x", "Linear", 0.0), ("y", "ReLU", 0.0), ("new", "Tanh", 0.0), ("c", "L", 0.0))
    assert aligned(before.points, after.points) == [
        Pair(0, 0),
        Pair(1, 1),
        Pair(None, 2),
        Pair(2, 3),
    ]


@given(st.lists(POINTS, max_size=10), st.lists(POINTS, max_size=10))
def test_every_layer_of_both_is_paired_once_and_in_order(
    before: list[KeptPoint], after: list[KeptPoint]
) -> None:
    pairs = aligned(before, after)
    assert [p.before for p in pairs if p.before is not None] == list(range(len(before)))
    assert [p.after for p in pairs if p.after is not None] == list(range(len(after)))


@pytest.mark.parametrize("alike", [True, False])
def test_long_paths_are_aligned_in_no_time(alike: bool) -> None:
    def long(length: int, name: str, kind: str) -> tuple[KeptPoint, ...]:
        types = ("Linear", kind)
        return tuple(KeptPoint(f"{name}.{i}", types[i % 2], -0.1) for i in range(length))

    before, after = long(4000, "a", "ReLU"), long(4002, "b", "ReLU" if alike else "GELU")
    pairs = aligned(before, after)
    assert len([p for p in pairs if p.before is not None]) == 4000
    assert len([p for p in pairs if p.after is not None]) == 4002


def test_a_path_is_compared_with_the_rest_of_one_that_its_first_layer_lies_on() -> None:
    whole = path(("a", "Linear", -2.0), ("b", "Linear", -1.5), ("c", "Linear", 0.0))
    rest = path(("b", "Linear", -1.4), ("c", "Linear", 0.0))
    assert path_pairs((whole,), (rest,)) == [(whole.from_layer(rest.first), rest)]
    assert path_pairs((rest,), (whole,)) == [(rest, whole.from_layer(rest.first))]
    kept = whole.from_layer(rest.first)
    assert kept is not None
    assert (kept.ratio, kept.points) == (-1.5, whole.points[1:])
    pairs = [(whole, whole), (rest, kept)]
    assert path_pairs((whole, rest), (whole,)) == pairs
    assert path_pairs((whole,), (whole, rest)) == [(b, a) for a, b in pairs]


def test_layers_that_were_numbered_anew_make_the_same_path() -> None:
    before = path(*((f"{i}", "Linear", -1.0 + i / 4) for i in range(4)))
    after = path(*((f"{i}", "Linear", -2.0 + i / 4) for i in range(1, 5)))
    assert path_pairs((before,), (after,)) == [(before, after)]

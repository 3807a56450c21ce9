"""Paths in decades."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gradhealth import GradientPath, PathPoint
from pytest_gradhealth.results.path import decades, power

norms = st.floats(min_value=1e-300, max_value=1e300)


def path_of(*norms: float, sizes: tuple[int, ...] = ()) -> GradientPath:
    points = tuple(
        PathPoint(str(i), "Linear", (1, n), norm, n)
        for i, (norm, n) in enumerate(zip(norms, sizes or (1,) * len(norms), strict=True))
    )
    return GradientPath(points, entry=points[0])


@given(norms, norms)
def test_decades_are_the_logarithm_of_the_ratio(a: float, b: float) -> None:
    assert decades(a, b) == pytest.approx(math.log10(a) - math.log10(b))
    assert decades(a, b) == -decades(b, a)


def test_decades_of_what_is_not_there() -> None:
    assert decades(0.0, 1.0) == decades(0.0, 0.0) == -math.inf
    assert decades(1.0, 0.0) == math.inf
    assert math.isnan(decades(math.nan, 1.0))
    assert math.isnan(decades(1.0, math.inf))
    assert (power(-1000.0), power(1000.0), power(0.0)) == (0.0, math.inf, 1.0)


def test_v_takes_the_larger_and_x_the_smaller_of_the_two_normalisations() -> None:
    path = path_of(1e-4, 1.0, sizes=(1, 10_000))
    assert path.vanishing == pytest.approx(-2)
    assert path.exploding == pytest.approx(-4)
    assert path.ratio == 1e-4


def test_rate_steps_and_largest_step() -> None:
    path = path_of(1e-6, 1e-5, 1e-1, 1.0)
    assert path.steps == pytest.approx((-1, -4, -1))
    assert path.rate == pytest.approx(1e-2)
    assert path.largest_step(down=True) == 1
    assert path.crossing(-0.5, down=True).name == "2"
    assert path.crossing(-3, down=True).name == "1"

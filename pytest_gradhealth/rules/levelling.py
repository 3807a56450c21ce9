"""What the steps before the second look take away of a path's loss or growth."""

from __future__ import annotations

import math

from pytest_gradhealth.formatting import factor
from pytest_gradhealth.results.profile import GradientProfile

#: Decades that steps take away where what they leave is not worth a warning: training levels it.
LEVELLED = 1.0


def levels_out(before: float, after: float) -> bool:
    """Whether a path that lost or gained so many decades is on its way to being level.

    >>> levels_out(-11.7, -3.8), levels_out(-4.2, -4.1), levels_out(2.1, 2.0)
    (True, False, False)
    """
    return math.isfinite(before) and abs(before) - abs(after) >= LEVELLED


def levelled_to(after: float, second: GradientProfile) -> str:
    """What is said of a path that levels out."""
    return f"; {factor(after)} after {second.steps} steps: training levels it"

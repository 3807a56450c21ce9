"""How much slower is slow enough, of learning rates that are too large."""

from __future__ import annotations

import math
from collections.abc import Callable

#: Share of a limit, or of the critical length, that a step is to have for training to go well.
SAFE = 0.2


def safe_share(carry: float | None) -> float:
    """The share of a critical rate that trains: less where momentum makes later steps longer.

    Of the study's networks that a rate was too large for and that some rate trains, most that were
    given less than this learned (examples/study/RATES.md).
    """
    return SAFE if carry is None or not 1 < carry < math.inf else min(SAFE, 1 / carry)


def rounded_down(rate: float) -> float:
    """A rate as one types it, with one digit, and no more than it was.

    >>> rounded_down(0.0378), rounded_down(20.0)
    (0.03, 20.0)
    """
    return _with_one_digit(rate, math.floor, 1e-9)


def rounded_up(times: float) -> float:
    """A factor with one digit, and no less than it was.

    >>> rounded_up(23.0), rounded_up(0.5)
    (30.0, 0.5)
    """
    return _with_one_digit(times, math.ceil, -1e-9)


def _with_one_digit(value: float, rounded: Callable[[float], int], slack: float) -> float:
    power = math.floor(math.log10(value) + 1e-9)
    return float(f"{rounded(value / 10.0**power + slack)}e{power}")

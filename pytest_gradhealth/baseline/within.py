"""Whether numbers of a baseline still hold, within a relative tolerance."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pytest_gradhealth.baseline.change import Change
from pytest_gradhealth.baseline.numbers import LOSS, KeptNumbers
from pytest_gradhealth.formatting import told_apart
from pytest_gradhealth.results.diagnosis import Limit

#: The share of the largest gradient below which another may be nothing but rounding.
ROUNDING = 1e-5


def settled(before: KeptNumbers | None, now: KeptNumbers, rtol: float) -> KeptNumbers:
    """What is kept of new numbers: the old one of each that is the same within the tolerance."""
    if before is None:
        return now
    old, found = before.named(), _distances(before, now)
    return now.taken_over({name: old[name] for name, apart in found.items() if apart <= rtol})


def number_changes(before: KeptNumbers, now: KeptNumbers, limit: Limit) -> Iterator[Change]:
    """The numbers that differ by more than a limit: the loss, then the farthest first.

    Those that only one side has are other layers, which are told of as such.
    """
    old, new = before.named(), now.named()
    found = _distances(before, now)
    for name, distance in sorted(found.items(), key=lambda each: (each[0] != LOSS, -each[1])):
        if distance > limit.value:
            was, here = told_apart(old[name], new[name], digits=3)
            share = f"{100 * distance:.2g}%" if math.isfinite(distance) else "no number"
            yield Change(
                "number",
                True,
                name.removeprefix("the gradient at "),
                f"{name} is {here}, and was {was} ({share} apart; limit {100 * limit.value:.2g}%,"
                f" {limit.source})",
            )


def _distances(before: KeptNumbers, now: KeptNumbers) -> dict[str, float]:
    """How far the numbers that both have are apart.

    A gradient that is rounding beside the largest counts as of that size.
    """
    old, new = before.named(), now.named()
    finite = [abs(v) for name, v in old.items() if name != LOSS and math.isfinite(v)]
    least = ROUNDING * max(finite, default=0.0)
    return {
        name: apart(value, new[name], 0.0 if name == LOSS else least)
        for name, value in old.items()
        if name in new
    }


def apart(before: float, now: float, least: float = 0.0) -> float:
    """How far two numbers are apart, in terms of the first; two that are no numbers are the same.

    What is below the `least` counts as of that size.

    >>> apart(2.0, 2.5), apart(0.0, 0.0), apart(0.0, 1e-9), apart(math.nan, math.nan)
    (0.25, 0.0, inf, 0.0)
    >>> apart(1e-9, 2e-9, least=1e-6)
    0.001
    """
    if before == now or (math.isnan(before) and math.isnan(now)):
        return 0.0
    size = max(abs(before), least)
    if size == 0 or not math.isfinite(before) or not math.isfinite(now):
        return math.inf
    return abs(now - before) / size

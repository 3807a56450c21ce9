"""Whether numbers of a baseline still hold, within a relative tolerance."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pytest_gradhealth.baseline.change import Change
from pytest_gradhealth.baseline.numbers import KeptNumbers
from pytest_gradhealth.formatting import told_apart
from pytest_gradhealth.results.diagnosis import Limit


def settled(before: KeptNumbers | None, now: KeptNumbers, rtol: float) -> KeptNumbers:
    """What is kept of new numbers: the old ones, where they are the same within the tolerance."""
    if before is None or [*before.named()] != [*now.named()]:
        return now
    both = zip(before.named().values(), now.named().values(), strict=True)
    return before if all(apart(old, new) <= rtol for old, new in both) else now


def number_changes(before: KeptNumbers, now: KeptNumbers, limit: Limit) -> Iterator[Change]:
    """The numbers that differ by more than a limit: the loss, then the farthest first.

    Those that only one side has are other layers, which are told of as such.
    """
    old, new = before.named(), now.named()
    found = [(name, apart(old[name], new[name])) for name in old if name in new]
    for name, distance in sorted(found, key=lambda each: (each[0] != "the loss", -each[1])):
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


def apart(before: float, now: float) -> float:
    """How far two numbers are apart, in terms of the first; two that are no numbers are the same.

    >>> apart(2.0, 2.5), apart(0.0, 0.0), apart(0.0, 1e-9), apart(math.nan, math.nan)
    (0.25, 0.0, inf, 0.0)
    """
    if before == now or (math.isnan(before) and math.isnan(now)):
        return 0.0
    if before == 0 or not math.isfinite(before) or not math.isfinite(now):
        return math.inf
    return abs(now - before) / abs(before)

"""Whether parameters are initialised as they were: their distributions, not their numbers.

Two draws from one distribution differ, in mean and in standard deviation, by what their number of
elements lets them: by sqrt(2/n) of a standard deviation, and by sqrt((kurtosis - 1)/(2n)) of itself
(the standard errors of a mean and, to first order, of a standard deviation, for two draws).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from pytest_gradhealth.baseline.change import Change
from pytest_gradhealth.formatting import number, shortened
from pytest_gradhealth.results.weights import WeightRecord

#: How many standard errors are no accident: one draw in 10**11 of a normal distribution.
ERRORS = 7.0
#: From how many elements on a mean and a standard deviation are compared, and equal elements.
ENOUGH, EQUAL = 16, 4
#: So many that are not zero are none in one draw in 10**11.
FEW = 25
#: The kurtosis of a normal distribution, the least that is reckoned with.
NORMAL = 3.0
#: Rounding of a mean and a standard deviation, relative to the larger of both.
ROUNDING = 1e-3


def settled(
    before: Sequence[WeightRecord], now: Sequence[WeightRecord]
) -> tuple[WeightRecord, ...]:
    """What is kept of new records: the old one, where the parameter is initialised as it was."""
    known = {weights.name: weights for weights in before}
    return tuple(
        known[w.name] if w.name in known and not _difference(known[w.name], w) else w for w in now
    )


def initialisation_changes(
    before: Sequence[WeightRecord], now: Sequence[WeightRecord]
) -> Iterator[Change]:
    """The parameters of both that are initialised otherwise; a name of another size is another."""
    known = {weights.name: weights for weights in before}
    for weights in now:
        said = _difference(known[weights.name], weights) if weights.name in known else ""
        if said:
            name = shortened(weights.name, 60)
            yield Change("initialisation", True, "", f"{name} is initialised otherwise: {said}")


def _difference(before: WeightRecord, now: WeightRecord) -> str:
    """What tells two distributions apart, "" for nothing."""
    if before.elements != now.elements:
        return ""
    n = now.elements
    if _is_sparse(before, now):
        return ""
    if (before.zeros == 1) != (now.zeros == 1):
        return "it is all zeros, and was not" if now.zeros == 1 else "it is not zero, and was"
    if n >= EQUAL and (before.std == 0) != (now.std == 0):
        alike = "all its elements are alike, and were not"
        return alike if now.std == 0 else "its elements differ, and were alike"
    if n < ENOUGH and before.std:
        return ""
    # Copies say no more than one of them does.
    n = max(1, round(n * min(before.distinct, now.distinct)))
    spread = math.hypot(before.std, now.std) / math.sqrt(2)
    slack = ROUNDING * max(abs(before.mean), abs(now.mean), spread)
    if (
        now.elements >= EQUAL
        and abs(now.mean - before.mean) > ERRORS * spread * math.sqrt(2 / n) + slack
    ):
        return f"its mean is {number(now.mean)}, and was {number(before.mean)}"
    if not before.std or not now.std:
        return ""
    kurtosis = max(NORMAL, before.kurtosis, now.kurtosis)
    error = math.sqrt((kurtosis - 1) / (2 * n))
    if abs(math.log(now.std / before.std)) > ERRORS * error + ROUNDING:
        return f"its standard deviation is {number(now.std)}, and was {number(before.std)}"
    share = (before.zeros + now.zeros) / 2
    if abs(now.zeros - before.zeros) > ERRORS * math.sqrt(2 * share * (1 - share) / n) + 1 / n:
        return f"{now.zeros:.2%} of it are zeros, and {before.zeros:.2%} were"
    return ""


def _is_sparse(before: WeightRecord, now: WeightRecord) -> bool:
    """Whether so few are not zero that a draw may have none."""
    zeros = min(before.zeros, now.zeros)
    return zeros > 0 and (1 - zeros) * now.elements < FEW

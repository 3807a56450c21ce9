"""Times taken in turns, so that what slows the machine down slows all of them down."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """The median of several measurements, and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise at least two values."""
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


def in_turns(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    before: Callable[[], object] = lambda: None,
    after: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Time each call once a round, in an order that moves on; return seconds by name.

    One round before the first is not counted. `before` is run before each call and not timed;
    `after` is timed, to wait for an accelerator.
    """
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-1, rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            before()
            began = time.perf_counter()
            calls[name]()
            after()
            took = time.perf_counter() - began
            if number >= 0:
                times[name].append(took)
    return times


def ratio(times: Sequence[float], base: Sequence[float]) -> Spread:
    """Time over the base's, round by round."""
    return Spread.of(ratios(times, base))


def ratios(times: Sequence[float], base: Sequence[float]) -> list[float]:
    """Time over the base's of each round."""
    return [one / other for one, other in zip(times, base, strict=True)]


def difference(times: Sequence[float], base: Sequence[float]) -> Spread:
    """Time beyond the base's, round by round, in milliseconds."""
    return Spread.of([1e3 * (one - other) for one, other in zip(times, base, strict=True)])

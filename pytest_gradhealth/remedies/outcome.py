"""What came of a remedy: pure comparisons of what was measured before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_gradhealth.formatting import number
from pytest_gradhealth.results.diagnosis import Measure, Outcome, Treatment
from pytest_gradhealth.results.path import decades

#: Share of the loss that has to go in a short training.
FALL = 0.1
#: Share of the loss after which a training has shown enough.
ENOUGH = 0.5
#: Decades towards the limit that count as better, or away from it as worse.
NOTABLE = 0.5

#: The order of the table.
_ORDER: dict[Outcome, int] = {
    "cured": 0,
    "better": 1,
    "no effect": 2,
    "worse": 3,
    "cannot": 4,
    "not tried": 5,
}


@dataclass(frozen=True)
class Examined:
    """What a copy showed: the value of the failed rule, and the codes that fail or warn."""

    value: float | None = None
    failing: frozenset[str] = frozenset()
    warning: frozenset[str] = frozenset()


def gain(before: float | None, after: float | None, *, larger: bool) -> float:
    """Decades that a value has moved in the right direction, up if it should be `larger`."""
    if before is None or after is None or not math.isfinite(after) or after == before:
        return 0.0
    if not math.isfinite(before):
        return math.inf
    if min(before, after) < 0:  # no size, and so no decades: the difference over the larger of them
        moved = (after - before) / max(abs(before), abs(after))
    else:
        moved = decades(after, before)
    return moved if larger else -moved


def measure_of(value: float | None, losses: Sequence[float]) -> Measure:
    """The value, with start and end of a training that may not have been made."""
    if not losses:
        return Measure(value)
    return Measure(value, losses[0], losses[-1], len(losses))


def learns(measure: Measure, floor: float) -> bool:
    """Whether the loss falls, and below that of an answer without learning."""
    if measure.start is None or measure.end is None or not math.isfinite(measure.end):
        return False
    marks = [mark for mark in (measure.start, floor) if math.isfinite(mark)]
    return all(measure.end < mark - FALL * abs(mark) for mark in marks)


def is_clear(losses: Sequence[float], floor: float) -> bool:
    """Whether a training has shown enough: the loss has halved, or is not finite any more."""
    marks = [losses[0]] if math.isnan(floor) else [losses[0], floor]
    enough = min(mark - ENOUGH * abs(mark) for mark in marks)
    return not math.isfinite(losses[-1]) or losses[-1] < enough


@dataclass(frozen=True)
class Comparison:
    """What a remedy is held against.

    `codes` are the codes to be cured, the first of which has its value compared, which should be
    `larger` or smaller; `floor` is the loss that an answer without learning has (NaN if unknown),
    `steps` the length of a full training.
    """

    codes: tuple[str, ...]
    floor: float
    steps: int
    larger: bool = False

    @property
    def code(self) -> str:
        """The code whose value is compared."""
        return self.codes[0]


def outcome_of(
    goal: Comparison, before: Measure, after: Measure, seen: Examined
) -> tuple[Outcome, str]:
    """Compare what was measured before and after; say why where the numbers do not."""
    improves = gain(before.value, after.value, larger=goal.larger)
    learned = learns(after, goal.floor)
    ends_badly = after.end is not None and not math.isfinite(after.end)
    if not seen.failing and learned:
        warned = " and ".join(sorted(seen.warning))
        return "cured", f"{warned} warns" if warned else ""
    if seen.failing and not seen.failing & set(goal.codes):
        return "no effect", f"fails {' and '.join(sorted(seen.failing))} instead"
    if ends_badly and (before.end is None or math.isfinite(before.end)):
        return "worse", "the loss does not stay finite"
    if not seen.failing:
        if 0 < after.steps < goal.steps and not ends_badly:
            return "better", f"there was time for {after.steps} of {goal.steps} steps only"
        return "better", _lacking(after, goal.floor)
    if improves >= NOTABLE or (learned and not learns(before, goal.floor)):
        return "better", ""
    return ("worse" if improves <= -NOTABLE else "no effect"), ""


def _lacking(after: Measure, floor: float) -> str:
    """What is wrong with a training that did not do enough."""
    if after.end is None or not math.isfinite(floor):
        return ""
    how = "worse" if after.end > floor + FALL * abs(floor) else "no better"
    return f"still {how} than one answer for all, whose loss is {number(floor)}"


def merit(treatment: Treatment) -> tuple[float, ...]:
    """The order of the table: by outcome, then by how fast the loss falls."""
    after = treatment.after or Measure()
    end = math.inf if after.end is None else after.end
    return _ORDER[treatment.outcome], bool(treatment.reason), after.steps or math.inf, end

"""What came of a remedy: pure comparisons of what was measured before and after."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from pytest_gradhealth.config.values import FEWEST
from pytest_gradhealth.formatting import number
from pytest_gradhealth.results.diagnosis import Measure, Outcome, Treatment
from pytest_gradhealth.results.path import decades
from pytest_gradhealth.results.yardstick import Yardstick
from pytest_gradhealth.training.learning import (
    FALL,
    LEAST,
    NOTHING,
    STEPS,
    is_signed,
    learns,
    rises,
)

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


@dataclass(frozen=True)
class Training:
    """The losses of a short training, which may have been cut by the time that there was."""

    losses: tuple[float, ...] = ()
    cut: bool = False


def gain(before: float | None, after: float | None, *, larger: bool) -> float:
    """Decades that a value has moved in the right direction, up if it should be `larger`.

    None from a zero that should be as small as can be: there was nothing left to measure.
    """
    if before is None or after is None or not math.isfinite(after) or after == before:
        return 0.0
    if before == 0 and not larger:
        return 0.0
    if not math.isfinite(before):
        return math.inf
    if min(before, after) < 0:  # no size, and so no decades: the difference over the larger of them
        moved = (after - before) / max(abs(before), abs(after))
    else:
        moved = decades(after, before)
    return moved if larger else -moved


def measure_of(value: float | None, training: Training) -> Measure:
    """The value, with start and end of a training that may not have been made."""
    losses = training.losses
    return Measure(value, losses[0], losses[-1], len(losses)) if losses else Measure(value)


def patience_with(seen: Examined, goal: Comparison, before: Measure) -> int:
    """Steps after which a standstill says enough: few where there is no cure to be hoped for.

    None where the rule fails by less than `before`: that is better, unless the loss rises.
    """
    if seen.failing:
        return 0 if gain(before.value, seen.value, larger=goal.larger) >= NOTABLE else FEWEST
    return LEAST if seen.warning & set(goal.codes) else STEPS


def trains_alike(first: Measure, seen: Examined, goal: Comparison) -> bool:
    """Whether a further draw of weights can be told to train as the `first` has.

    That one was quick, and nothing of what failed was `seen` in the other.
    """
    return first.steps < LEAST and not (seen.failing or seen.warning & set(goal.codes))


def is_same(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two trainings have gone the same way."""
    agree = (abs(a - b) <= NOTHING * abs(b) for a, b in zip(one, other, strict=False))
    return FEWEST <= len(one) == len(other) and all(agree)


@dataclass(frozen=True)
class Comparison:
    """What a remedy is held against.

    `codes` are the codes to be cured, the first of which has its value compared, which should be
    `larger` or smaller; a fall of the loss is compared with the `yardstick`.
    """

    codes: tuple[str, ...]
    yardstick: Yardstick = field(default_factory=Yardstick)
    larger: bool = False

    @property
    def code(self) -> str:
        """The code whose value is compared."""
        return self.codes[0]


def outcome_of(
    goal: Comparison, before: Measure, after: Measure, seen: Examined, *, cut: bool = False
) -> tuple[Outcome, str]:
    """Compare what was measured before and after; say why where the numbers do not.

    `cut` says that there was no time for a training to show enough.
    """
    improves = gain(before.value, after.value, larger=goal.larger)
    learned = learns(after, goal.yardstick)
    unsure = seen.warning & set(goal.codes if goal.yardstick.guessed else ())
    if not seen.failing and learned and not unsure:
        if goal.larger and after.value == 0:  # what passes is the copy after some steps
            return "better", "no gradient gets there before the first step"
        warned = " and ".join(sorted(seen.warning))
        return "cured", f"{warned} warns" if warned else ""
    if seen.failing and not seen.failing & set(goal.codes):
        return "no effect", f"fails {' and '.join(sorted(seen.failing))} instead"
    if rises(after, goal.yardstick):
        return _risen(before, after)
    if not seen.failing:
        if cut:
            return "better", f"there was time for {after.steps} of {STEPS} steps only"
        return "better", _lacking(after, goal.yardstick, unsure)
    if improves >= NOTABLE or (learned and not learns(before, goal.yardstick)):
        return "better", ""
    return ("worse" if improves <= -NOTABLE else "no effect"), ""


def _risen(before: Measure, after: Measure) -> tuple[Outcome, str]:
    """What to call a copy whose loss rises: no better than an unchanged one that does the same."""
    assert after.end is not None
    lost = not math.isfinite(after.end)
    held = before.end is None or (math.isfinite(before.end) and not before.end >= after.end)
    why = "the loss does not stay finite" if lost else "the loss rises in training"
    return ("worse" if held else "no effect"), why


def _lacking(after: Measure, yardstick: Yardstick, unsure: Collection[str]) -> str:
    """What is wrong with a training that did not do enough, or by a bias alone, for all we know."""
    if unsure:
        return f"{' and '.join(sorted(unsure))} warns, and a fall may be that of one answer for all"
    floor = yardstick.constant
    if after.start is None or after.end is None:
        return ""
    if is_signed(yardstick, after.end):
        if math.isnan(yardstick.spread):
            return "its loss can be negative, and nothing tells how far that has to fall"
        return "its loss can be negative, and falls by too little to tell learning"
    if not math.isfinite(floor) or (yardstick.guessed and after.start <= floor):
        return "the loss falls by less than a tenth"
    how = "worse" if after.end > floor + FALL * abs(floor) else "no better"
    what = "the model as it is" if yardstick.guessed else "one answer for all"
    return f"still {how} than {what}, whose loss is {number(floor)}"


def changes(treatment: Treatment) -> bool:
    """Whether a remedy changes anything about a loss that is not finite, and any about another."""
    starts = [m.start for m in (treatment.before, treatment.after or Measure(start=0.0))]
    return any(start is None or math.isfinite(start) for start in starts)


def merit(treatment: Treatment) -> tuple[float, ...]:
    """The order of the table: by outcome, then by how fast the loss falls."""
    after = treatment.after or Measure()
    end = math.inf if after.end is None else after.end
    return _ORDER[treatment.outcome], bool(treatment.reason), after.steps or math.inf, end

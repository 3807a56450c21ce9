"""Whether a training has learned, or will: pure comparisons of its losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from pytest_gradhealth.config.values import FEWEST
from pytest_gradhealth.results.diagnosis import Measure
from pytest_gradhealth.results.learning import Course, HeldAgainst
from pytest_gradhealth.results.yardstick import Yardstick

#: Steps of the short training, and those after which a small fall counts; a large one does from
#: FEWEST on.
STEPS, LEAST = 60, 20
#: Steps of one that may yet run away, as with SGD: losses were seen to, up to step 102 of 200.
LONG = 3 * STEPS
#: Share of the loss that has to go in a short training.
FALL = 0.1
#: Share of the loss, or of its spread over examples where its zero is arbitrary, that is much.
ENOUGH = 0.5
#: Share of the loss that one answer for all examples has, by which a model that learns is better.
LEARNED = 0.01
#: Steps in a row that have to say the same before a training ends, and those of a standstill.
AGREEING, STILL = 3, 5
#: Share of the loss that is as good as none, and that of a standstill of what may yet be cured.
NOTHING, FLAT = 0.01, 0.002
#: By how much more than `steps` a training on one batch may take where its loss still falls.
LONGER = 3
#: Share of what a loss has yet to fall by that it falls by in a third of the steps, at the least,
#: so that it still falls: at a learning rate ten times too small it does.
SLOW = 1e-3
#: Losses whose median stands for the last one, which may go up and down.
LAST = 5
#: Share of the loss that is rounding.
ROUNDING = 1e-7


def learns(measure: Measure, yardstick: Yardstick) -> bool:
    """Whether the loss falls, below that of an answer without learning, over enough steps."""
    if measure.start is None or measure.end is None or not math.isfinite(measure.end):
        return False
    if not math.isfinite(measure.start):
        return False
    constant, end = yardstick.constant, measure.end
    if is_signed(yardstick, measure.start, end):
        # The zero of a likelihood is arbitrary: a share of its size says nothing.
        falls = measure.steps >= STEPS and measure.start - end > ENOUGH * yardstick.spread
        return falls and not end >= constant
    fall = FALL if measure.steps >= LEAST else ENOUGH
    return measure.steps >= FEWEST and end < (1 - fall) * mark_of(yardstick, measure.start)


def is_decided(
    losses: Sequence[float], yardstick: Yardstick, patience: int, *, steady: bool = True
) -> bool:
    """Whether a training has shown enough.

    The loss is not finite any more; for some steps it has been low enough twice over, or half of
    what it was; or it stands still after the steps that `patience` allows. Where that is none, it
    is enough if the loss does not rise. What is not `steady` may run away after it was low.
    """
    steps = len(losses)
    if not math.isfinite(losses[-1]):
        return True
    if steps < FEWEST or is_signed(yardstick, *losses):
        return steps >= STEPS
    mark = mark_of(yardstick, losses[0])
    low = (1 - (2 * FALL if steps >= LEAST else ENOUGH)) * mark if patience else losses[0]
    if max(losses[-AGREEING:]) <= low:
        return steady or (steps >= STEPS and not patience)
    last = losses[-max(patience // 2, STILL) :]
    least = (NOTHING if patience <= FEWEST else FLAT) * mark
    still = max(last) - min(last) < least and last[-1] <= losses[0]
    return steps >= STEPS or (steps >= patience and still)


def rises(measure: Measure, yardstick: Yardstick) -> bool:
    """Whether a training ends well above where it started."""
    if measure.start is None or measure.end is None:
        return False
    if not math.isfinite(measure.end):
        return True
    if measure.steps < LEAST:
        return False  # the first steps of a training may well lead up
    signed = is_signed(yardstick, measure.start, measure.end)
    mark = ENOUGH * yardstick.spread if signed else FALL * measure.start
    return measure.end - measure.start > (0.0 if math.isnan(mark) else mark)


def mark_of(yardstick: Yardstick, start: float) -> float:
    """The loss to get below: at the start, or of one answer for all."""
    return min(mark for mark in (start, yardstick.constant) if math.isfinite(mark))


def is_signed(yardstick: Yardstick, *losses: float) -> bool:
    """Whether a loss can be negative, as some of its values or the yardstick say."""
    return yardstick.can_be_negative or min(losses) < 0


def is_better(loss: float, constant: float) -> bool:
    """Whether a loss is below that of one answer for all, by enough to have learned more."""
    return loss < constant - LEARNED * abs(constant)


def goal_of(start: float, yardstick: Yardstick) -> tuple[float, HeldAgainst]:
    """The loss that a training on one batch has to get below, and what it follows from.

    That is a tenth less than at the start or, where a loss can be negative, less by a tenth of what
    the losses of single examples lie apart; and in any case less than one answer for all has.
    """
    held_against: HeldAgainst = "start"
    fall = FALL * abs(start)
    if is_signed(yardstick, start) and 0 < yardstick.spread < math.inf:
        fall, held_against = FALL * yardstick.spread, "spread"
    bound = yardstick.constant - LEARNED * abs(yardstick.constant)
    return (bound, "constant") if bound < start - fall else (start - fall, held_against)


def course_of(
    losses: Sequence[float], goal: float, yardstick: Yardstick, steps: int
) -> Course | None:
    """What a training on one batch has come to, None while that is to be seen.

    It is decided where the loss is not finite, or for some steps below the goal, or stands still
    to the last digit. After `steps`, and again after twice as many, it goes on where the loss
    still falls.
    """
    made = len(losses)
    if not math.isfinite(losses[-1]):
        return "not finite"
    if _is_known(losses[0], yardstick) or _is_low(losses, goal, steps):
        return "learned"
    if made % steps:
        last = losses[-LEAST:]
        still = made >= LEAST and max(last) - min(last) <= ROUNDING * abs(last[0])
        return "stuck" if still else None
    if _still_falls(losses[-steps:], goal):
        return "falling" if made >= LONGER * steps else None
    return _where_it_stands(losses, goal, yardstick)


def _where_it_stands(losses: Sequence[float], goal: float, yardstick: Yardstick) -> Course:
    """What a loss that falls no more has come to."""
    start, end = losses[0], median(losses[-LAST:])
    more = ENOUGH * yardstick.spread if is_signed(yardstick, *losses) else FALL * start
    if end > start + (0.0 if math.isnan(more) else more):
        return "rising"
    fell, known = start - end > FALL * (start - goal), yardstick.constant
    return "settled" if fell and not end >= known - LEARNED * abs(known) else "stuck"


def _is_known(start: float, yardstick: Yardstick) -> bool:
    """Whether a batch has been learned before: nothing is left that a training could lower."""
    floor = LEARNED * yardstick.constant if yardstick.constant > 0 else 0.0
    return not yardstick.can_be_negative and 0 <= start <= floor


def _is_low(losses: Sequence[float], goal: float, steps: int) -> bool:
    last = losses[-LAST:]
    if len(losses) < FEWEST or not median(last) < goal:
        return False
    return len(losses) % steps == 0 or max(last[-AGREEING:]) < goal


def _still_falls(losses: Sequence[float], goal: float) -> bool:
    """Whether the medians of the thirds of some losses fall: all but evenly, or ever faster."""
    n = max(1, len(losses) // 3)
    first, second, last = (median(third) for third in (losses[:n], losses[n:-n], losses[-n:]))
    fall = min(first, second) - last
    return fall > SLOW * (last - goal) or fall > max(
        2 * abs(first - second), SLOW * (losses[0] - goal)
    )

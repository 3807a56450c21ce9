"""GH604: a few training steps must lower the loss of one batch.

## What it does

Trains a copy on the batch with your optimizer (by default Adam, and if that does not learn it, at a
tenth of its rate), with the same random numbers in each step, and stops as soon as it is decided.
The loss has to fall by a tenth of what it was, and below the best answer that is the same for all
examples; where it can be negative, by a tenth of what the losses of single examples lie apart.
Where it still falls after `learn_steps`, as many are made again, and once more; one that falls all
the same is "not judged", as is one that has fallen and stands still where nobody knows what one
answer for all would have. What was not learned says how far it came, and what the other rules find
in the model, or in the copy after the steps.

It is asked by `assert_learns`, by `learn_steps=60`, or where it is selected by its code.

## Why

Whatever is wrong with a model, its optimizer or its batch, one batch is the least that it has to
learn. Inputs of odd scales, labels that contradict, a kernel that tells no examples apart leave the
gradient level from layer to layer, and nothing is learned.

## References

- Karpathy (2019), A recipe for training neural networks
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median

from pytest_gradhealth.errors import UnlearnedBatchError
from pytest_gradhealth.formatting import (
    View,
    block,
    coded,
    columns,
    count,
    listing,
    number,
    sampled,
)
from pytest_gradhealth.results.diagnosis import Diagnosis, Finding, Limit, Severity
from pytest_gradhealth.results.learning import Learning
from pytest_gradhealth.results.names import LOSS
from pytest_gradhealth.results.non_finite import NonFinite
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules.non_finite import cause_of as cause_of_non_finite
from pytest_gradhealth.rules.non_finite import describe
from pytest_gradhealth.rules.rule import Cause, Evidence, Rule

#: Rules that are asked why a batch is not learned, those first that say most of it; rules on paths,
#: which take loops for depth here; and those that are asked of the copy after the steps alone.
ASKED = (
    *("GH409", "GH602", "GH402", "GH403", "GH406", "GH101", "GH102", "GH401", "GH404"),
    *("GH103", "GH603", "GH202", "GH201", "GH203", "GH601"),
)
ON_PATHS = ("GH101", "GH201", "GH404")
AFTERWARDS = ("GH402", "GH403")
#: Share of a batch whose labels contradict that is enough to keep it from being learned.
MANY = 0.5
#: Share of a weight that no step has moved it by, where steps are too short.
SHORT = 1e-3
#: By this factor features differ in size, or all of them from 1.
ODD = 100.0
#: Share of the parameters that is frozen.
FROZEN = 0.9
#: Share of the loss of one answer for all within which a training has learned that alone.
AT = 0.02
#: Losses of a curve, and of a table.
POINTS, COLUMNS = 8, 6
#: By this factor of what it was to fall the loss has risen, where steps were too long.
RISEN = 10.0
#: Losses at the end whose median is told as the last one, and share of it by which they swing.
LAST, SWINGS = 5, 0.5


def check(evidence: Evidence) -> Iterator[Finding]:
    """Tell what has become of the training, where there was one."""
    profile, learning = evidence.first, evidence.first.learning
    if learning is None:
        return
    severity, text = _told(learning)
    goal = Limit(learning.goal, _REASONS[learning.held_against])
    end = end_of(learning)
    value = end if math.isfinite(end) else None
    yield RULE.finding(severity, LOSS, text, profile=profile, value=value, limit=goal)


#: What a loss to get below follows from, in words.
_REASONS = {
    "start": "a tenth less than at the start",
    "constant": "the best that one answer for all examples has",
    "spread": "a tenth of what the losses of single examples lie apart, less than at the start",
}


def _told(learning: Learning) -> tuple[Severity, str]:
    start, end, goal = _apart(learning.start, end_of(learning), learning.goal)
    way = f"from {start} to {end} in {count(len(learning.losses), 'step')} ({_curve(learning)})"
    below = f"to get below {goal}, {_REASONS[learning.held_against]}"
    if learning.course == "learned" and len(learning.losses) == 1:
        return "info", f"the batch is learned: the loss is {start} to begin with"
    if learning.course == "learned":
        return "info", f"the batch is learned: the loss goes {way}"
    if learning.course in ("falling", "settled") and not _is_hopeless(learning):
        return "not judged", f"nothing to judge: the loss goes {way}, and has yet {below}"
    if learning.non_finite is not None:
        where = f"in step {len(learning.losses)}, {describe(learning.non_finite)}"
        return "failure", f"the batch is not learned: {where}"
    if learning.course == "not finite":
        where = f"the loss is not finite in step {len(learning.losses)}"
        return "failure", f"the batch is not learned: {where}"
    verb = "rises" if learning.course == "rising" else "goes"
    return "failure", f"the batch is not learned: the loss {verb} {way}, and has {below}"


def _is_hopeless(learning: Learning) -> bool:
    """Whether there is that in the way of a loss which still falls that will not go away."""
    return _of_labels(learning) is not None or (
        learning.reason is not None and learning.reason.fails
    )


def end_of(learning: Learning) -> float:
    """The loss after the steps: it may go up and down, and one that is not finite stands."""
    last = learning.losses[-LAST:]
    return median(last) if math.isfinite(last[-1]) else last[-1]


def _apart(*values: float, most: int = 6) -> list[str]:
    """Numbers with as many digits as tell them apart, two at least and `most` at most."""
    for digits in range(2, most):
        texts = [f"{value:.{digits}g}" for value in values]
        if len({*texts}) == len({*values}):
            return texts
    return [f"{value:.{most}g}" for value in values]


def _curve(learning: Learning) -> str:
    """The losses in a few characters, level where they hardly fall; "!" is not finite."""
    finite = [loss for loss in learning.losses if math.isfinite(loss)]
    top = max(finite)
    span = max(top - min(finite), learning.start - learning.goal) or 1.0
    ends = sampled(range(len(learning.losses) + 1), POINTS + 1)
    highest = (max(learning.losses[a:b], key=_order) for a, b in pairwise(ends))
    levels = (1 - (top - loss) / span for loss in highest)
    return "".join(block(level) if math.isfinite(level) else "!" for level in levels)


def _order(loss: float) -> float:
    return math.inf if math.isnan(loss) else loss


def cause_of(finding: Finding, profile: GradientProfile) -> Cause | None:
    """What keeps the batch from being learned, as far as it shows."""
    learning = profile.learning
    if learning is None or finding.severity != "failure":
        return None
    if learning.non_finite is not None and not _has_risen(learning):
        return _of_number(learning.non_finite, finding, profile)
    return (
        _of_labels(learning)
        or _of_a_rule(learning, surely=True)
        or _of_scales(learning)
        or _of_long_steps(learning)
        or _of_a_rule(learning, surely=False)
        or _of_short_steps(learning)
        or _of_frozen(profile)
        or _of_one_answer(learning)
        or _UNKNOWN
    )


_UNKNOWN = Cause(
    "no rule sees what it is",
    "a learning rate 10 times larger, or smaller, and steps=200; then a smaller model",
)


def _of_number(bad: NonFinite, finding: Finding, profile: GradientProfile) -> Cause | None:
    """What makes a number that is not finite: of a parameter the step before."""
    if bad.parameter and bad.parameter != "targets":
        return Cause(
            f"the step before has made the {bad.parameter} of {bad.layer} so",
            "a smaller learning rate, clip=1.0, or a larger eps in the optimizer: float16 rounds"
            " 1e-8 to 0",
        )
    return cause_of_non_finite(finding, replace(profile, non_finite=bad))


def _of_labels(learning: Learning) -> Cause | None:
    batch = learning.batch
    if not batch.contradicting or batch.contradicting < MANY * batch.examples:
        return None
    return Cause(
        f"{batch.contradicting} of {batch.examples} examples have the inputs of another one, and"
        " another target",
        "look at how the batch is made: inputs that lose what tells them apart (a constant column,"
        " a crop, a clamp), or targets in another order than the inputs",
    )


def _of_a_rule(learning: Learning, *, surely: bool) -> Cause | None:
    """What another rule says: `surely` where it fails for the model as it was given."""
    reason = learning.reason
    if reason is None or (surely and (reason.steps or not reason.fails)):
        return None
    return Cause(reason.because or reason.finding, reason.advice or f"see {reason.code}")


def _has_risen(learning: Learning) -> bool:
    """Whether the loss was far above its start before it was lost."""
    finite = [loss for loss in learning.losses if math.isfinite(loss)]
    return max(finite) - learning.start > RISEN * (learning.start - learning.goal)


def _of_long_steps(learning: Learning) -> Cause | None:
    last = learning.losses[-2 * LAST :]
    swing = max(last) - min(last)
    swings = swing > SWINGS * abs(median(last)) and swing > learning.start - learning.goal
    rises = learning.course == "rising" or _has_risen(learning)
    if not rises and not swings:
        return None
    how = "rises" if rises else "goes up and down"
    moved = f": they move a weight by x{number(learning.change or 0.0)} of it"
    return Cause(
        f"the loss {how} since the steps are too long{moved * bool(learning.change)}",
        "a learning rate 10 times smaller, or clip=1.0",
    )


def _of_scales(learning: Learning) -> Cause | None:
    least, most = learning.batch.smallest or 0.0, learning.batch.largest or 1.0
    if not least or not (most > ODD * least or most > ODD or most < 1 / ODD):
        return None
    sizes = f"between {number(least)} and {number(most)}" if most > 2 * least else number(most)
    return Cause(
        f"the features of the inputs have a root mean square of {sizes}: the largest decide how"
        " long a step may be, and the others are not learned",
        "standardise them: x = (x - x.mean(0)) / (x.std(0) + 1e-6)",
    )


def _of_short_steps(learning: Learning) -> Cause | None:
    made, change = count(len(learning.losses), "step"), learning.change
    if change is None or not change < SHORT:
        return None
    because = f"{made} have moved no parameter by more than x{number(change)} of it"
    if not change:
        return Cause(f"{made} have moved no parameter", "a learning rate that is not 0")
    times = 10 ** math.ceil(math.log10(0.1 / change))
    rate = f"a learning rate {times:g} times larger" if times < 1e7 else "a larger learning rate"
    return Cause(f"{because}: the learning rate is too small", rate)


def _of_frozen(profile: GradientProfile) -> Cause | None:
    sizes = {p.name: math.prod(p.shape) for p in profile.parameters}
    free = [p.name for p in profile.parameters if p.state != "frozen"]
    left = sum(sizes[name] for name in free)
    if left > (1 - FROZEN) * sum(sizes.values()):
        return None
    return Cause(
        f"all is frozen but {listing(free)}, {left} of {sum(sizes.values())} numbers",
        "train more of it: model.requires_grad_(True)",
    )


def _of_one_answer(learning: Learning) -> Cause | None:
    constant, end = learning.constant, end_of(learning)
    if constant is None or not abs(end - constant) < AT * abs(constant):
        return None
    return Cause(
        "it has learned one answer for all examples, and nothing that tells them apart",
        "look at whether the inputs get to the output, and the targets depend on them; in a deep"
        " model, residual connections or normalisation layers",
    )


def exhibit(diagnosis: Diagnosis, _findings: Sequence[Finding], _view: View) -> str:
    """The curve of the loss, what it is held against, and what another rule finds."""
    learning = diagnosis.profile.learning
    if learning is None:
        return ""
    steps = sampled([*enumerate(learning.losses, 1)], COLUMNS)
    names = ["step", *(str(step) for step, _ in steps)]
    losses = ["loss", *_apart(*(loss for _, loss in steps), most=4)]
    parts = [columns([losses], names, "l" + "r" * len(steps))]
    if learning.constant is not None:
        parts.append(f"one answer for all examples: {_apart(learning.goal, learning.constant)[1]}")
    if learning.reason is not None:
        after = f"after {count(learning.reason.steps, 'step')}: " * bool(learning.reason.steps)
        parts.append(coded(after + learning.reason.finding, learning.reason.code))
    return "\n".join(parts)


RULE = Rule(
    code="GH604",
    name="unlearned",
    summary="a few training steps must lower the loss of one batch",
    reads="the losses of training steps on a copy, with the given optimizer, where it is asked",
    check=check,
    confirm_from=None,
    error=UnlearnedBatchError,
    doc=__doc__,
    cause=cause_of,
    exhibit=exhibit,
    of_scale=True,
    unacceptable=-math.inf,
)

"""Why a batch is not learned (GH604), as far as it shows."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import median

from pytest_gradhealth.formatting import count, listing, number
from pytest_gradhealth.results.diagnosis import Finding
from pytest_gradhealth.results.learning import Learning
from pytest_gradhealth.results.non_finite import NonFinite
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules.non_finite import cause_of as cause_of_non_finite
from pytest_gradhealth.rules.rule import Cause

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
#: By this factor of what it was to fall the loss has risen, where steps were too long.
RISEN = 10.0
#: Losses at the end whose median is told as the last one, and share of it by which they swing.
LAST, SWINGS = 5, 0.5


def end_of(learning: Learning) -> float:
    """The loss after the steps: it may go up and down, and one that is not finite stands."""
    last = learning.losses[-LAST:]
    return median(last) if math.isfinite(last[-1]) else last[-1]


def cause_of(finding: Finding, profile: GradientProfile) -> Cause | None:
    """What keeps the batch from being learned, as far as it shows."""
    learning = profile.learning
    if learning is None or finding.severity != "failure":
        return None
    if learning.climbs:
        return _CLIMBS
    if learning.non_finite is not None and not _has_risen(learning):
        return _of_number(learning.non_finite, finding, profile)
    return (
        of_labels(learning)
        or _of_a_rule(learning, surely=True)
        or _of_scales(learning)
        or _of_long_steps(learning)
        or _of_a_rule(learning, surely=False)
        or _of_short_steps(learning)
        or _of_frozen(profile)
        or _of_one_answer(learning)
        or _UNKNOWN
    )


_CLIMBS = Cause(
    "the optimizer has maximize=True: its steps raise the loss",
    "maximize=False, or what is to be large in place of the loss",
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


def of_labels(learning: Learning) -> Cause | None:
    """Labels that contradict, where they do for much of the batch."""
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

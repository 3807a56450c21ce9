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
from pytest_gradhealth.rules.output_causes import STANDARDISED_TARGETS, far_targets
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
#: Multiples of the learning rate that are tried where steps are too long, and where nothing tells.
SHORTER, EITHER = (0.1, 0.01, 1e-3, 1e-4, 1e-5), (0.1, 10.0)


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
        or _of_targets(learning, profile)
        or _of_long_steps(learning)
        or _of_a_rule(learning, surely=False)
        or _of_short_steps(learning)
        or _of_frozen(profile)
        or _of_another_rate(learning)
        or _of_one_answer(learning)
        or _unknown(learning)
    )


_CLIMBS = Cause(
    "the optimizer has maximize=True: its steps raise the loss",
    "maximize=False, or what is to be large in place of the loss",
)


def _unknown(learning: Learning) -> Cause:
    rate = "a learning rate 10 times larger, or smaller, and "
    more = f": {_in_vain(learning)}" if learning.tried else ""
    return Cause(
        "no rule sees what it is", f"{rate * (not more)}steps=200; then a smaller model{more}"
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
    if not _is_too_long(learning):
        return None
    rises = learning.course == "rising" or _has_risen(learning)
    how = "rises" if rises else "goes up and down"
    moved = f": they move a weight by x{number(learning.change or 0.0)} of it"
    because = f"the loss {how} since the steps are too long{moved * bool(learning.change)}"
    if learning.tried and learning.cure is None:
        return Cause(because, f"clip=1.0: {_in_vain(learning)}")
    return Cause(because, _rate(learning) or "a learning rate 10 times smaller, or clip=1.0")


def _is_too_long(learning: Learning) -> bool:
    """Whether the loss rises, or swings by much."""
    last = learning.losses[-2 * LAST :]
    swing = max(last) - min(last)
    swings = swing > SWINGS * abs(median(last)) and swing > learning.start - learning.goal
    return learning.course == "rising" or _has_risen(learning) or swings


def rates_to_try(learning: Learning) -> tuple[float, ...]:
    """Multiples of the learning rate that may learn what was not, the likeliest first.

    None where the batch, or what another rule finds in the model as it was given, is the cause.
    """
    reason = learning.reason
    sure = of_labels(learning) or learning.climbs or (reason and reason.fails and not reason.steps)
    if sure or learning.course in ("learned", "falling", "settled"):
        return ()
    if _is_too_long(learning):
        return SHORTER
    if learning.course != "stuck" or learning.change == 0:
        return ()
    if _is_too_short(learning):
        longer = _longer(learning.change)
        return longer / 10, longer, longer / 100
    return EITHER


def _is_too_short(learning: Learning) -> bool:
    return learning.change is not None and learning.change < SHORT


def _longer(change: float | None) -> float:
    """By how much longer steps are that move a weight by a tenth of it."""
    return float(10 ** math.ceil(math.log10(0.1 / (change or 0.1))))


def _rate(learning: Learning) -> str:
    """The learning rate that was seen to learn the batch, "" for none."""
    cure = learning.cure
    if cure is None:
        return ""
    return f"{cure.call or _times(cure.times)}: learned in {count(cure.steps, 'step')}"


def _times(times: float) -> str:
    how = "larger" if times > 1 else "smaller"
    return f"learning rates {max(times, 1 / times):g} times {how}"


def _in_vain(learning: Learning) -> str:
    """That no other learning rate does."""
    ends = dict.fromkeys((min(learning.tried), max(learning.tried)))
    tried = " to ".join(f"x{times:g}" for times in ends)
    return f"at {tried} of the learning rate it is not learned either"


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


def _of_targets(learning: Learning, profile: GradientProfile) -> Cause | None:
    constant = learning.constant
    if constant is not None and end_of(learning) < 2 * constant < learning.start:
        return None  # it has got to them
    far = far_targets(profile)
    return Cause(far, STANDARDISED_TARGETS) if far else None


def _of_short_steps(learning: Learning) -> Cause | None:
    made, change = count(len(learning.losses), "step"), learning.change
    if not _is_too_short(learning):
        return None
    if not change:
        return Cause(f"{made} have moved no parameter", "a learning rate that is not 0")
    because = f"{made} have moved no parameter by more than x{number(change)} of it"
    if learning.tried and learning.cure is None:
        return Cause(because, f"a larger learning rate, and steps=200: {_in_vain(learning)}")
    times = _longer(change)
    rate = f"a learning rate {times:g} times larger" if times < 1e7 else "a larger learning rate"
    return Cause(f"{because}: the learning rate is too small", _rate(learning) or rate)


def _of_another_rate(learning: Learning) -> Cause | None:
    if learning.cure is None:
        return None
    how = "small" if learning.cure.times > 1 else "large"
    return Cause(f"the learning rate is too {how}", _rate(learning))


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

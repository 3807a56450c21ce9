"""GH604: a few training steps must lower the loss of one batch.

## What it does

Trains a copy on the batch with your optimizer (by default Adam, and if that does not learn it, at a
tenth of its rate), with the same random numbers in each step, and stops as soon as it is decided.
The loss has to fall by a tenth of what it was, and below the best answer that is the same for all
examples; where it can be negative, by a tenth of what the losses of single examples lie apart.
Where it still falls after `learn_steps`, as many are made again, and once more; one that falls all
the same is "not judged", as is one that has fallen and stands still where nobody knows what one
answer for all would have. What was not learned says how far it came, and what the other rules find
in the model, or in the copy after the steps. With a declared optimizer other learning rates are
tried then, and the first that learns the batch is told.

It is asked by `assert_learns`, by `learn_steps=60`, or where it is selected by its code.

## Why

Whatever is wrong with a model, its optimizer or its batch, one batch is the least that it has to
learn. Inputs of odd scales, labels that contradict, a kernel that tells no examples apart leave the
gradient level from layer to layer, and nothing is learned.

## Example

Fails:

```python
import torch
from torch import nn


def test_learns(gradhealth):
    same, labels = torch.ones(64, 8), torch.arange(64) % 4
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    gradhealth.assert_learns(model, same, labels, loss=nn.functional.cross_entropy)
```

Passes:

```python
import torch
from torch import nn


def test_learns(gradhealth):
    different, labels = torch.randn(64, 8), torch.arange(64) % 4
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    gradhealth.assert_learns(model, different, labels, loss=nn.functional.cross_entropy)
```

## When to ignore it

Where the loss is not what is to fall: a critic, a game of two networks.

## References

- Karpathy (2019), A recipe for training neural networks
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from pytest_gradhealth.errors import UnlearnedBatchError
from pytest_gradhealth.formatting import (
    View,
    block,
    coded,
    columns,
    count,
    sampled,
)
from pytest_gradhealth.results.diagnosis import Diagnosis, Finding, Limit, Severity
from pytest_gradhealth.results.learning import Learning
from pytest_gradhealth.results.names import LOSS
from pytest_gradhealth.rules.non_finite import describe
from pytest_gradhealth.rules.rule import Evidence, Rule
from pytest_gradhealth.rules.unlearned_causes import cause_of, end_of, of_labels

#: Rules that are asked why a batch is not learned, those first that say most of it; rules on paths,
#: which take loops for depth here; and those that are asked of the copy after the steps alone.
ASKED = (
    *("GH409", "GH602", "GH402", "GH403", "GH406", "GH101", "GH102", "GH401", "GH404"),
    *("GH103", "GH603", "GH202", "GH201", "GH203", "GH601"),
)
ON_PATHS = ("GH101", "GH201", "GH404")
AFTERWARDS = ("GH402", "GH403")
#: Losses of a curve, and of a table.
POINTS, COLUMNS = 8, 6


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
    if learning.course != "not finite" and learning.climbs and min(learning.losses) < 0:
        return "not judged", f"nothing to judge: the loss goes {way}, and the optimizer maximises"
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
    return of_labels(learning) is not None or (
        learning.reason is not None and learning.reason.fails
    )


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

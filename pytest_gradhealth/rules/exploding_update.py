"""GH202: a training step must not change a weight beyond recognition, nor the training run away.

## What it does

Makes ten of your training steps on a copy (your optimizer, `clip=` and `regularizer=`) and compares
how far each moves a weight, over the weight's norm, with `max_update`. A loss or a gradient that is
not finite any more fails too, and so does a gradient norm that grows a thousandfold with the loss.
Judged where the training step is declared.

Clipping is advised where steps shrink with the gradient (SGD) and a clipped one, with all that
momentum adds to it, stays far below the limit; a smaller learning rate otherwise.

## Why

A step as long as the weight itself forgets what the weight was: the learning rate is too large for
the gradient, or nothing limits a gradient that comes in bursts.

## Example

Fails:

```python
import torch
from torch import nn


def test_training_step(gradhealth):
    gradhealth.assert_no_exploding_update(
        nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1)),
        torch.randn(64, 8),
        100 * torch.randn(64, 1),
        loss=nn.functional.mse_loss,
        optimizer=lambda params: torch.optim.SGD(params, lr=0.1),
    )
```

Passes:

```python
import torch
from torch import nn


def test_training_step(gradhealth):
    gradhealth.assert_no_exploding_update(
        nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1)),
        torch.randn(64, 8),
        100 * torch.randn(64, 1),
        loss=nn.functional.mse_loss,
        optimizer=lambda params: torch.optim.SGD(params, lr=0.1),
        clip=1.0,
    )
```

## When to ignore it

Where a first step is to throw the initialisation away, and later ones are short.

## References

- Pascanu, Mikolov and Bengio (2013), On the difficulty of training recurrent neural networks
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from pytest_gradhealth.errors import ExplodingUpdateError
from pytest_gradhealth.formatting import View, columns, number, shortened
from pytest_gradhealth.results.diagnosis import Diagnosis, Finding
from pytest_gradhealth.results.profile import GradientProfile, Update
from pytest_gradhealth.rules.output_causes import STANDARDISED_TARGETS, far_targets
from pytest_gradhealth.rules.pace import SAFE
from pytest_gradhealth.rules.rule import Cause, Evidence, Quantity, Rule

#: Growth of the gradient norm over the steps, while the loss rises, that is called running away.
RUNAWAY = 1e3
#: The norm that gradients are clipped to, as far as anything is said of that.
CLIP = 1.0


def check(evidence: Evidence) -> Iterator[Finding]:
    """Compare the steps that were made with `max_update`; silent where none were."""
    made, limit = evidence.first.updates, evidence.limits.get("max_update")
    if not made or limit is None:
        return
    broken = next((update for update in made if not update.finite), None)
    long = [update for update in made if update.finite and update.change > limit.value]
    if long:
        first, worst = long[0], max(long, key=lambda update: update.change)
        text = (
            f"training explodes: step {first.step} changes {first.layer} by x{number(first.change)}"
            f" of its weight; limit x{number(limit.value)} ({limit.source})"
        )
        if worst is not first:
            text += f"; x{number(worst.change)} in step {worst.step}"
        if broken is not None:
            text += f"; the {_broken(broken)} in step {broken.step}"
        yield RULE.finding(
            "failure", first.layer, text, profile=evidence.first, value=worst.change, limit=limit
        )
    elif broken is not None:
        text = f"training explodes: the {_broken(broken)} in step {broken.step}"
        yield RULE.finding("failure", broken.layer, text, profile=evidence.first)
    elif _runs_away(made):
        text = (
            f"training explodes: the gradient norm goes from {number(made[0].gradient)} to"
            f" {number(made[-1].gradient)} in {len(made)} steps, the loss from"
            f" {number(made[0].loss)} to {number(made[-1].loss)}"
        )
        yield RULE.finding("failure", made[-1].layer, text, profile=evidence.first)


def _broken(update: Update) -> str:
    """What is not finite in a step, the first thing first."""
    numbers = {
        "loss": update.loss,
        "gradient": update.gradient,
        "clipped gradient": update.clipped,
        "weight": update.change,
    }
    name, value = next((n, v) for n, v in numbers.items() if not math.isfinite(v))
    return f"{name} is {'NaN' if math.isnan(value) else 'infinite'}"


def _runs_away(made: Sequence[Update]) -> bool:
    start, end = made[0], made[-1]
    return end.gradient > RUNAWAY * start.gradient > 0 and end.loss > start.loss


def largest_change(profile: GradientProfile) -> float | None:
    """The most that a step changes a weight by, over the weight."""
    return max((update.change for update in profile.updates), default=None)


def cause_of(finding: Finding, profile: GradientProfile) -> Cause | None:
    """How large the gradient of the first step is that is too long, and what would shorten it.

    What comes after it is what it has done.
    """
    if not profile.updates:
        return None
    limit = finding.limit or math.inf
    first = next((u for u in profile.updates if u.change > limit), profile.updates[-1])
    slower = "a smaller learning rate"
    if limit < first.change < math.inf:
        needed = _yet_to_come(first) * first.change / (SAFE * limit)
        times = 10 ** math.ceil(math.log10(needed)) if needed < 1e6 else math.inf
        slower = f"a learning rate {times} times smaller" if times < 1e6 else slower
    norm = number(first.gradient)
    if far := far_targets(profile):
        because = f"{far}: the gradient norm is {norm} in step {first.step}"
        return Cause(because, f"{STANDARDISED_TARGETS}, or {slower}")
    if first.clipped < first.gradient:
        return Cause(
            f"the gradient norm {norm} of step {first.step} is clipped to {number(first.clipped)},"
            " and the step is still too long",
            slower,
        )
    if _would_fit(profile.updates[0], limit):
        return Cause(
            f"the gradient norm is {norm} in step {first.step}, unclipped",
            f"torch.nn.utils.clip_grad_norm_(model.parameters(), {CLIP}) between loss.backward()"
            " and optimizer.step(), or a smaller learning rate",
        )
    if first.change > limit:
        because = f"the learning rate is too large for a gradient norm of {norm}"
        return Cause(f"{because}, in step {first.step}", slower)
    return Cause(f"the gradient norm is {norm} in step {first.step}", slower)


def _yet_to_come(step: Update) -> float:
    """How much longer momentum will make a step, beyond what of it has built up by then."""
    if step.carry is None or not step.carry > 1:
        return 1.0
    built = -math.expm1(step.step * math.log1p(-1 / step.carry))
    return 1 / built if built else math.inf


def _would_fit(step: Update, limit: float) -> bool:
    """Whether steps like one stay far below the limit with their gradient clipped."""
    if step.carry is None or not step.clipped > 0:
        return False
    return step.carry * CLIP * step.change / step.clipped <= SAFE * limit


def exhibit(diagnosis: Diagnosis, _findings: Sequence[Finding], _view: View) -> str:
    """The training steps that were made, with the gradient norm before and after clipping."""
    rows = [
        [
            str(update.step),
            number(update.loss),
            number(update.gradient),
            number(update.clipped) if update.clipped != update.gradient else "",
            f"x{number(update.change)}",
            shortened(update.layer, 22),
        ]
        for update in diagnosis.profile.updates
    ]
    names = ["step", "loss", "gradient norm", "after clipping", "change", "of layer"]
    return columns(rows, names, "rrrrrl")


RULE = Rule(
    code="GH202",
    name="exploding-update",
    summary="a training step must not change a weight beyond recognition",
    reads="ten training steps on a copy, with the given optimizer, clipping and penalty",
    check=check,
    confirm_from=None,
    error=ExplodingUpdateError,
    doc=__doc__,
    settings=("max_update",),
    quantity=Quantity(largest_change, "change"),
    cause=cause_of,
    exhibit=exhibit,
    of_scale=True,
    judges_steps=True,
    unacceptable=100.0,
)

"""GH603: the first step of the declared optimizer must not be far too long.

## What it does

Where the optimizer is declared with its learning rate (an instance, several in a list, a factory),
its first step is made on a copy, and the loss of the same batch, with the same random numbers, is
looked at along it, at powers of two. If the step raises the loss and shorter ones lower it, the
length from which on it rises belongs to the critical learning rate. The rate over that one is
compared with `max_rate` and `warn_max_rate`, and what is too much is looked at again after five
steps of the optimizer: a loss that is lower by then is no fault.

What the step costs counts, too, for what the best one gains: a loss that is rough and bounded, as
behind many batch normalisations, rises and falls again for steps that do no harm. SGD fails. Adam
and its like only warn, above `max_rate`: their steps do not grow with the gradient, so that some
networks come back from any height.

Nothing of this is done where the step promises, to first order, less than five times the loss.

## Why

Gradient descent beyond the critical rate climbs the walls of the valley that it is to go down. It
is the one setting that most often decides whether a network learns.

## Example

Fails:

```python
import torch
from torch import nn


def test_gradients(gradhealth):
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    x = torch.randn(64, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=50.0)
    gradhealth.assert_healthy(
        model, x, x[:, :1], loss=nn.functional.mse_loss, optimizer=optimizer
    )
```

Passes:

```python
import torch
from torch import nn


def test_gradients(gradhealth):
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    x = torch.randn(64, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    gradhealth.assert_healthy(
        model, x, x[:, :1], loss=nn.functional.mse_loss, optimizer=optimizer
    )
```

## When to ignore it

Where a schedule that the optimizer does not know of yet begins at a lower rate. Better attach the
scheduler before the check, or declare the rate that training begins with.

## References

- LeCun, Simard and Pearlmutter (1992), Automatic Learning Rate Maximization by On-Line Estimation
  of the Hessian's Eigenvectors
- Cohen et al. (2021), Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from pytest_gradhealth.errors import StepTooLongError
from pytest_gradhealth.formatting import View, columns, number
from pytest_gradhealth.results.diagnosis import Diagnosis, Finding, Limit, Severity
from pytest_gradhealth.results.first_step import FirstStep
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules.pace import rounded_down, rounded_up, safe_share
from pytest_gradhealth.rules.rule import Cause, Evidence, Quantity, Rule


def check(evidence: Evidence) -> Iterator[Finding]:
    """Compare the rate of a first step that raises the loss with the critical one."""
    profile, step = evidence.first, evidence.first.first_step
    if step is None or _has_come_down(evidence):
        return
    severity, limit = _judged(step, evidence.limits["max_rate"], evidence.limits["warn_max_rate"])
    if step.excess > limit.value:
        text = (
            f"the learning rate is x{number(step.excess)} of the critical one: the first step takes"
            f" the loss from {number(step.before)} to {number(step.after)}; limit"
            f" x{number(limit.value)} ({limit.source})"
        )
        layer = profile.last_label
        yield RULE.finding(severity, layer, text, profile=profile, value=step.excess, limit=limit)


def _judged(step: FirstStep, most: Limit, warned: Limit) -> tuple[Severity, Limit]:
    """How severe a step is, and the limit that says so."""
    if step.carry is None:
        return "warning", most
    return ("failure", most) if step.excess > most.value else ("warning", warned)


def _has_come_down(evidence: Evidence) -> bool:
    """Whether the loss is lower after some steps, however it went up first."""
    return evidence.second is not None and evidence.second.loss < evidence.first.loss


def excess_of(profile: GradientProfile) -> float | None:
    """The rate over the critical one, None where the first step is short enough."""
    return None if profile.first_step is None else profile.first_step.excess


def cause_of(_finding: Finding, profile: GradientProfile) -> Cause | None:
    """Which rate is critical, and which one to type."""
    step = profile.first_step
    if step is None:
        return None
    share = safe_share(step.carry) * step.critical
    because = (
        f"beyond {_length(step, step.critical)} the step raises the loss of its own batch, the best"
        f" one lowers it by {number(step.gain)}"
    )
    if step.carry is not None and 1 < step.carry < math.inf:
        because += f"; momentum makes later ones x{number(step.carry)} as long"
    if step.typed and len(step.rates) == 1:
        advice = step.typed.format(f"{rounded_down(share * step.rates[0]):g}")
    else:
        advice = f"all learning rates divided by {rounded_up(1 / share):g}"
    return Cause(because, advice + ", or a warm-up that begins there" * (step.carry is None))


def _length(step: FirstStep, share: float) -> str:
    """A part of the step, as a rate where there is one."""
    if len(step.rates) == 1:
        return f"lr={number(share * step.rates[0])}"
    return f"x{number(share)} of its length"


def exhibit(diagnosis: Diagnosis, _findings: Sequence[Finding], _view: View) -> str:
    """The loss behind steps of several lengths, up to that of the declared one."""
    step = diagnosis.profile.first_step
    if step is None:
        return ""
    lengths = (0.0, step.critical / 2, step.critical, 1.0)
    losses = (step.before, step.before - step.gain, step.before, step.after)
    words = ("", "about the best", "critical", "declared")
    rows = [
        [_length(step, length), number(loss), word]
        for length, loss, word in zip(lengths, losses, words, strict=True)
    ]
    return columns(rows, ["first step", "loss", ""], "rrl")


RULE = Rule(
    code="GH603",
    name="step-too-long",
    summary="the first step of the declared optimizer must not be far too long",
    reads="the loss of the batch along the first step, made on a copy, where that promises much",
    check=check,
    confirm_from="warning",
    error=StepTooLongError,
    echoes=("GH201", "GH202", "GH203", "GH301", "GH409"),
    doc=__doc__,
    settings=("max_rate", "warn_max_rate"),
    quantity=Quantity(excess_of, "excess"),
    cause=cause_of,
    exhibit=exhibit,
    of_scale=True,
    judges_steps=True,
    unacceptable=100.0,
)

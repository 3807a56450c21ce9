"""GH203: the model's outputs must start at a sane size.

## What it does

Compares the root mean square of the outputs (over that of floating targets, where those are larger
than 1) with `max_output`. A few steps of the optimizer may bring it down, which clears it.

Above 10, what the loss does not feel is left out: elements whose gradient is exactly zero (a mask,
padding) and a shift of all the logits of an example; a squared error that the model computes itself
tells how large its targets are. A sum that the loss is linear in (log-likelihoods, a critic) has no
size that could be too large, and neither has what it only takes the direction of. Other sums behind
the last weights (squared distances as logits) count by their terms, targets of their size apart.

## Why

Logits in the thousands make a softmax certain of what it has not learned, and a squared error
enormous: the first steps go into undoing the initialisation.

## Example

Fails:

```python
import torch
from torch import nn


def test_gradients(gradhealth):
    prices = 1e5 * torch.rand(64, 8)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    labels = torch.arange(64) % 3
    gradhealth.assert_healthy(model, prices, labels, loss=nn.functional.cross_entropy)
```

Passes:

```python
import torch
from torch import nn


def test_gradients(gradhealth):
    prices = 1e5 * torch.rand(64, 8)
    prices = (prices - prices.mean(0)) / prices.std(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    labels = torch.arange(64) % 3
    gradhealth.assert_healthy(model, prices, labels, loss=nn.functional.cross_entropy)
```

## When to ignore it

Where outputs are in a unit of their own (an energy, a price) and so is the loss. A `loss=` that
scales them is better.

## References

- He et al. (2015), Delving deep into rectifiers
- Hanin and Rolnick (2018), How to start training: the effect of initialization and architecture
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from pytest_gradhealth.errors import ExplodingOutputError
from pytest_gradhealth.formatting import number
from pytest_gradhealth.results.diagnosis import Finding
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules.output_causes import cause_of_size
from pytest_gradhealth.rules.rule import Cause, Evidence, Quantity, Rule


def check(evidence: Evidence) -> Iterator[Finding]:
    """Compare the RMS of the outputs with `max_output` and `warn_max_output`."""
    fail, warn = evidence.limits["max_output"], evidence.limits["warn_max_output"]
    size, second = evidence.first.magnitude, evidence.second
    if size is None or not size > min(warn.value, fail.value):
        return
    fails = size > fail.value
    if fails and second is not None and second.magnitude is not None:
        fails = not second.magnitude <= min(warn.value, fail.value)
    limit = fail if fails else warn
    felt = "as the loss feels them, " if "magnitude" in evidence.first.felt else ""
    yield RULE.finding(
        "failure" if fails else "warning",
        evidence.first.last_label,
        f"{felt}the outputs are too large: their RMS is {number(size)};"
        f" limit {number(limit.value)} ({limit.source})",
        profile=evidence.first,
        value=size,
        limit=limit,
    )


def magnitude(profile: GradientProfile) -> float | None:
    """The RMS of the outputs."""
    return profile.magnitude


def cause_of(finding: Finding, profile: GradientProfile) -> Cause | None:
    """What makes outputs large, None for infinity, whose cause is that of the first one (GH301)."""
    if profile.non_finite is not None and finding.value == math.inf:
        return None
    return cause_of_size(profile)


RULE = Rule(
    code="GH203",
    name="exploding-output",
    summary="the model's outputs must start at a sane size",
    reads="RMS of the outputs, as the loss feels them (over that of floating targets above 1)",
    check=check,
    error=ExplodingOutputError,
    echoes=("GH201",),
    doc=__doc__,
    cause=cause_of,
    settings=("max_output",),
    quantity=Quantity(magnitude, "output", "{}"),
    of_scale=True,
)

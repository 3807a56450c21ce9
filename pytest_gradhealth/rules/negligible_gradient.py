"""GH103: gradients must not drown in the eps of the declared optimizer.

## What it does

Compares the root mean square of the first weight's gradient with the eps of an Adam-like optimizer
that you declare. A hundredth of it fails, less than all of it warns. Layers that only the first
state of a loop is made by do not count: what gets there is memory (GH102).

## Why

Adam steps by lr * g / (g + eps). Well below eps the step shrinks with the gradient, and a layer
that would otherwise train at any scale of the loss stands still.

## Example

Fails:

```python
import torch
from torch import nn


def test_gradients(gradhealth):
    gradhealth.assert_healthy(
        nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1)),
        torch.randn(64, 8),
        loss=lambda y: 1e-10 * y.square().mean(),
        optimizer=torch.optim.Adam,
    )
```

Passes:

```python
import torch
from torch import nn


def test_gradients(gradhealth):
    gradhealth.assert_healthy(
        nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1)),
        torch.randn(64, 8),
        loss=lambda y: y.square().mean(),
        optimizer=torch.optim.Adam,
    )
```

## When to ignore it

Where the eps is meant to damp the steps of what hardly gets a gradient.

## References

- Kingma and Ba (2015), Adam: a method for stochastic optimization
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from pytest_gradhealth.errors import NegligibleGradientError
from pytest_gradhealth.formatting import number
from pytest_gradhealth.results.diagnosis import Finding
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules.rule import Cause, Evidence, Rule

#: Below this share of eps an adaptive step is down to a hundredth: too small to train with.
SHARE = 0.01


def check(evidence: Evidence) -> Iterator[Finding]:
    """Compare the gradient RMS of the first weight with the eps of an Adam-like optimizer."""
    eps = evidence.limits.get("eps")
    if eps is None:
        return
    looks = [evidence.first] if evidence.second is None else [evidence.first, evidence.second]
    found = [first_weight(look) for look in looks]
    sizes = [size for _, size in found]
    if not all(0 < size < eps.value for size in sizes):
        return
    name, size = found[0]
    fails = all(size < SHARE * eps.value for size in sizes)
    text = f"the gradient of {name} drowns in {eps.source}: its RMS is {number(size)}"
    yield RULE.finding(
        "failure" if fails else "warning",
        name.rpartition(".")[0] or name,
        f"{text}, eps is {number(eps.value)}, so steps are x{number(size / (size + eps.value))}",
        profile=evidence.first,
        value=size,
        limit=eps,
    )


def first_weight(profile: GradientProfile) -> tuple[str, float]:
    """Name and gradient RMS of the first weight on a gradient path (else of the model)."""
    trunk = {point.name for path in profile.judged_paths for point in path.points}
    kept = [p for p in profile.parameters if not p.is_of(profile.forgotten)]
    weights = [p for p in kept if len(p.shape) > 1 and p.gradient is not None]
    ordered = [p for p in weights if p.is_of(trunk)] or weights
    if not ordered:
        return "", math.nan
    first = ordered[0]
    return first.name, (first.gradient or 0.0) / math.sqrt(math.prod(first.shape))


RULE = Rule(
    code="GH103",
    name="negligible-gradient",
    summary="gradients must not drown in the eps of the declared optimizer",
    reads="gradient RMS of the first weight, against the optimizer's eps",
    check=check,
    error=NegligibleGradientError,
    doc=__doc__,
    cause=Cause(
        "the loss is scaled down, or the gradient is lost on the way",
        "a larger loss (a sum instead of a mean, no constant factor), or a smaller eps",
    ),
    of_scale=True,
    patient=True,
)

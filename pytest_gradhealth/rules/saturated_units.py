"""GH403: the units of a layer must not be saturated.

## What it does

Counts the elements of each sigmoid or tanh at which its slope is below a hundredth of the largest,
and compares their share with `max_saturated`. From nine tenths on there is a warning.

## Why

Where an activation is flat, no gradient comes through, and what is learned stays in what little is
left.

## Example

Fails:

```python
import torch
from torch import nn


def test_gradients(gradhealth):
    metres = 2000 * torch.randn(64, 8)
    gradhealth.assert_healthy(
        nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4)), metres
    )
```

Passes:

```python
import torch
from torch import nn


def test_gradients(gradhealth):
    metres = 2000 * torch.randn(64, 8)
    gradhealth.assert_healthy(
        nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4)), metres
    )
```

## When to ignore it

Where a sigmoid or tanh is to work as a switch.

## References

- Glorot and Bengio (2010), Understanding the difficulty of training deep feedforward neural
  networks
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from pytest_gradhealth.errors import SaturatedUnitsError
from pytest_gradhealth.results.diagnosis import Finding
from pytest_gradhealth.results.profile import ActivationRecord, GradientProfile
from pytest_gradhealth.rules.dead_units import (
    Seen,
    folded,
    largest_share,
    on_paths,
    place_of,
    shares_of,
    worst_of,
)
from pytest_gradhealth.rules.rule import Cause, Evidence, Quantity, Rule

#: Share of flat elements from which a layer is mentioned.
MENTION = 0.9
#: Share of its bias, in L2 norm, up to which the weights of a layer have no say in it.
SLIGHT = 0.01


def check(evidence: Evidence) -> Iterator[Finding]:
    """Warn of layers that sit in their flat part; fail on a gradient path above `max_saturated`."""
    limit, first, second = evidence.limits["max_saturated"], evidence.first, evidence.second
    trunk = on_paths(first)
    later = None if second is None else shares_of(second, "flat")
    found: list[Seen] = []
    for seen in worst_of(first, "flat"):
        share = seen.flat or 0.0
        again = share if later is None else later.get(place_of(seen))
        share_of_both = share if again is None else min(share, again)
        on_path = seen.point in trunk
        fails = share_of_both > limit.value and on_path
        if not fails and share_of_both < MENTION:
            continue
        bound = "limit" if fails else "fails above"
        more = f"; {bound} {limit.value:.1%} ({limit.source})" * on_path
        gate = not fails and _is_a_gate(seen, first)
        more += "; by its bias alone, as a gate that starts open or shut" * gate
        found.append((seen, "failure" if fails else "info" if gate else "warning", more))
    for seen, severity, others, more in folded(found, "flat"):
        title = seen.title if seen.at else f"{seen.title} ({seen.function})"
        share = seen.flat or 0.0
        yield RULE.finding(
            severity,
            seen.name,
            f"{share:.0%} of {title} is saturated{others}{more}",
            profile=first,
            value=share,
            limit=limit if severity == "failure" else None,
        )


def _is_a_gate(seen: ActivationRecord, profile: GradientProfile) -> bool:
    """Whether the layer before has next to no weights beside its bias: a gate that is to learn."""
    called = [output.name for output in profile.outputs]
    before = seen.after or (called[called.index(seen.name) - 1] if seen.name in called else "")
    own = [p for p in profile.parameters if p.module == before]
    weights, biases = (
        [p.norm for p in own if (len(p.shape) > 1) == many] for many in (True, False)
    )
    return bool(weights and biases) and max(weights) < SLIGHT * min(biases)


RULE = Rule(
    code="GH403",
    name="saturated-units",
    summary="the units of a layer must not be saturated",
    reads="share of sigmoid and tanh outputs where the slope is below 1% of its largest",
    check=check,
    error=SaturatedUnitsError,
    doc=__doc__,
    cause=Cause(
        "what comes in is too large: inputs that were not scaled, large weights or large biases",
        "standardised inputs, smaller weights and biases, or a normalisation layer before it",
    ),
    settings=("max_saturated",),
    quantity=Quantity(partial(largest_share, "flat"), "saturated", "{}"),
    of_scale=True,
)

"""GH402: the units of a layer must not be dead.

## What it does

Counts the units (channels or features) of each rectifier that are zero for the whole batch, and
compares their share with `max_dead`. Those that all of a gradient path goes through fail, others
warn, and functions that lead to the loss alone (a hinge, a penalty) may let nothing through. A gate
of fewer than eight units may have all of them dead by chance, which is information unless nearly
all such gates have.

## Why

A unit that is zero for every example has no gradient: nothing will ever wake it up.

## Example

Fails:

```python
import torch
from torch import nn


def test_gradients(gradhealth):
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    nn.init.constant_(model[0].bias[1:], -10.0)
    gradhealth.assert_healthy(model, torch.randn(64, 8))
```

Passes:

```python
import torch
from torch import nn


def test_gradients(gradhealth):
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    nn.init.zeros_(model[0].bias)
    gradhealth.assert_healthy(model, torch.randn(64, 8))
```

## When to ignore it

Where units are to be zero for most data (sparse codes), and the batch is small. A larger batch is
better.

## References

- Lu et al. (2019), Dying ReLU and initialization: theory and numerical examples
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from pytest_gradhealth.errors import DeadUnitsError
from pytest_gradhealth.formatting import listing
from pytest_gradhealth.results.diagnosis import Finding, Severity
from pytest_gradhealth.results.profile import ActivationRecord, GradientProfile
from pytest_gradhealth.rules.rule import Cause, Evidence, Quantity, Rule

#: Share of dead units from which a layer is mentioned.
MENTION = 0.9
#: Units from which on it is no chance that all are dead: of inputs that hardly differ, each is for
#: all of them on one side or on the other.
FEW = 8
#: Where an activation is: its name, function, the layer before, and whether others get past it.
Place = tuple[str, str, str, bool]
#: An activation, how bad it is, and what there is to say of it at the end.
Seen = tuple[ActivationRecord, Severity, str]


def check(evidence: Evidence) -> Iterator[Finding]:
    """Compare the share of units that are zero for the whole batch with `max_dead`."""
    limit, first, second = evidence.limits["max_dead"], evidence.first, evidence.second
    trunk = on_paths(first)
    later = None if second is None else shares_of(second, "dead")
    by_chance = _by_chance(first)
    found: list[Seen] = []
    for seen in worst_of(first, "dead"):
        share = seen.dead or 0.0
        if share < min(MENTION, limit.value):
            continue
        again = None if later is None else later.get(place_of(seen))
        if again is not None and again < min(MENTION, limit.value):
            continue
        fails = share > limit.value and seen.point in trunk
        fails = fails and not (again is not None and again <= limit.value)
        severity: Severity = "failure" if fails else "info" if seen in by_chance else "warning"
        found.append((seen, severity, f"; limit {limit.value:.0%} ({limit.source})" * fails))
    for seen, severity, others, more in folded(found, "dead"):
        share = seen.dead or 0.0
        dead = "all" if share == 1 else f"{round(share * seen.units)} of"
        text = f"{dead} {seen.units} units of {seen.title} are dead: zero for the whole batch"
        yield RULE.finding(
            severity,
            seen.name,
            text + others + more,
            profile=first,
            value=share,
            limit=limit if severity == "failure" else None,
        )


def on_paths(profile: GradientProfile) -> set[str]:
    """The labels of all points on judged paths."""
    return {point.label for path in profile.judged_paths for point in path.points}


def _by_chance(profile: GradientProfile) -> list[ActivationRecord]:
    """Rectifiers of few units in side branches, where not nearly all units of all such are dead."""
    trunk = on_paths(profile)
    narrow = [a for a in worst_of(profile, "dead") if a.units < FEW and a.point not in trunk]
    units = sum(seen.units for seen in narrow)
    dead = sum(seen.units * (seen.dead or 0.0) for seen in narrow)
    return narrow if units < FEW or dead < MENTION * units else []


def asleep_by_chance(profile: GradientProfile) -> frozenset[str]:
    """Modules that get no gradient since such a rectifier beside them lets nothing through."""
    called = [output.name for output in profile.outputs]
    found: set[str] = set()
    for seen in _by_chance(profile):
        if seen.dead == 1 and seen.name in called:
            place = first = called.index(seen.name)
            while first and profile.outputs[first - 1].norm == 0:
                first -= 1
            found.update(called[first : place + 2])
    return frozenset(found)


def folded(
    found: Iterable[Seen], kind: str
) -> Iterator[tuple[ActivationRecord, Severity, str, str]]:
    """Of activations of which the same is to be said the worst, with words for the others."""
    alike: dict[tuple[Severity, str], list[ActivationRecord]] = defaultdict(list)
    for seen, severity, more in found:
        alike[severity, more].append(seen)
    for (severity, more), places in alike.items():
        worst = max(places, key=lambda seen: getattr(seen, kind) or 0.0)
        others = [seen for seen in places if seen is not worst]
        yield worst, severity, _of_others(worst, others, kind), more


def _of_others(worst: ActivationRecord, others: Sequence[ActivationRecord], kind: str) -> str:
    """What is true of all others as well, to be said behind what is of the worst."""
    if not others:
        return ""
    names = listing([seen.title for seen in others], 2)
    most, least = getattr(worst, kind) or 0.0, min(getattr(seen, kind) or 0.0 for seen in others)
    if f"{most:.0%}" == f"{least:.0%}" and (most == 1) == (least == 1):
        return f", likewise {names}"
    percent = math.floor(round(100 * least, 6))
    return f", {percent}%{' or more' * (len(others) > 1)} of {names}"


def worst_of(profile: GradientProfile, kind: str) -> list[ActivationRecord]:
    """The activation with the largest share ("dead" or "flat") of each place, in model order."""
    worst: dict[Place, ActivationRecord] = {}
    for seen in profile.activations:
        key, share = place_of(seen), getattr(seen, kind)
        if share is None:
            continue
        if kind == "dead" and key in worst:  # a unit that comes to life in one call is not dead
            worst[key] = min(worst[key], seen, key=lambda s: s.dead or 0.0)
        elif key not in worst or share > getattr(worst[key], kind):
            worst[key] = seen
    return list(worst.values())


def shares_of(profile: GradientProfile, kind: str) -> dict[Place, float]:
    """The largest share ("dead" or "flat") of each place."""
    return {place_of(seen): getattr(seen, kind) for seen in worst_of(profile, kind)}


def place_of(seen: ActivationRecord) -> Place:
    """What is the same of an activation in another look."""
    return seen.name, seen.function, seen.after, seen.point is None


def largest_share(kind: str, profile: GradientProfile) -> float:
    """The largest share ("dead" or "flat") of any activation."""
    shares = [getattr(seen, kind) for seen in profile.activations]
    return max((share for share in shares if share is not None), default=0.0)


RULE = Rule(
    code="GH402",
    name="dead-units",
    summary="the units of a layer must not be dead",
    reads="share of units whose rectifier lets nothing through for the whole batch",
    check=check,
    confirm_from="warning",  # behind a branch that starts at zero all units are, and wake up
    error=DeadUnitsError,
    echoes=("GH101",),
    doc=__doc__,
    cause=Cause(
        "large negative biases, inputs that were not scaled, or a step that was too long",
        "zero biases, standardised inputs, a smaller learning rate, or nn.LeakyReLU()",
    ),
    settings=("max_dead",),
    quantity=Quantity(partial(largest_share, "dead"), "dead", "{}"),
    of_scale=True,
)

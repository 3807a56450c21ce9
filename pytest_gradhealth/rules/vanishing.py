"""GH101: the gradient must not vanish between the loss and the first layer.

## What it does

Follows the gradient from the loss back along every path, and compares what arrives at the first
layer with what leaves the last, or all outputs together where it feeds several: the larger of the
ratio of L2 norms and the ratio of root mean squares, so that a change of width alone is no loss. A
path that fails or warns is looked at again after a few steps of the optimizer, and once more after
many where the model learns already, outgrows its weights, loses the gradient in a product of small
factors, or has silent layers that gradient gets past. A warning of which the steps take a decade
away is a note: training levels it. Where the model has learned by then, what is lost behind the
last layer with weights, and so to all of them, is a scale: outputs in a unit of their own. That
does not hold for a part that the loss has fallen without: with its first weights put back, it is
what it was.

What the loss only adds up, as errors of each example, is taken for its terms, as in a forward that
adds them up itself: each part that one term alone sees is judged for itself.

Depth is judged along one step of time. A cell called in a loop counts with all its calls, and where
the first state of a loop (or of a fused recurrent layer) is all that a path comes in by, while the
steps get data of their own, it ends there and another begins: what a loop forgets is for GH102, and
no other rule takes it for a fault of what is before. A layer that is repeated without new data is
depth.

Layers side by side that lose their gradient behind one point are one finding. A small network that
only joins branches of another path is a note, and so is a part that is multiplied by zeros which
nothing trains (of GH401). Where no path has two points to compare, the model is "not judged", with
the reason.

## Why

Layers that get next to no gradient stay as they were initialised, however long one trains. In a
plain network the norm changes by about the same factor with each layer: a slope of 1/4 in twenty
sigmoids leaves 1e-12.

## Example

Fails:

```python
import torch
from torch import nn


def test_gradients(gradhealth):
    blocks = [nn.Sequential(nn.Linear(32, 32), nn.Sigmoid()) for _ in range(12)]
    gradhealth.assert_healthy(nn.Sequential(*blocks), torch.randn(64, 32))
```

Passes:

```python
import torch
from torch import nn


def test_gradients(gradhealth):
    blocks = [nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU()) for _ in range(12)]
    gradhealth.assert_healthy(nn.Sequential(*blocks), torch.randn(64, 32))
```

## When to ignore it

Where the first layers are to stay as they are. `requires_grad_(False)` says that better: what is
frozen is not judged.

## References

- Hochreiter (1991), Untersuchungen zu dynamischen neuronalen Netzen
- Glorot and Bengio (2010), Understanding the difficulty of training deep feedforward neural
  networks
- He et al. (2015), Delving deep into rectifiers
- Schoenholz et al. (2017), Deep information propagation
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

from pytest_gradhealth.errors import VanishingGradientError
from pytest_gradhealth.formatting import count, factor, listing, number, portion
from pytest_gradhealth.results.diagnosis import Finding, Limit, Severity
from pytest_gradhealth.results.path import SMALL_PART, GradientPath, PathPoint, power
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules.levelling import levelled_to, levels_out
from pytest_gradhealth.rules.path_causes import path_cause
from pytest_gradhealth.rules.rule import Evidence, Quantity, Rule
from pytest_gradhealth.rules.silence import (
    find_woken,
    gets_round,
    second_reach,
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """Compare V of every judged path with `min_ratio` and `warn_min_ratio`; tell if none can be."""
    yield from _or_not_judged([*_compared(evidence)], evidence.first)


@dataclass(frozen=True)
class _Lost:
    """A path that loses too much, by its number, and what is said of its levelling out."""

    path: GradientPath
    index: int
    severity: Severity
    levelled: str

    def where(self, evidence: Evidence) -> PathPoint:
        """The point that is told: a gate, or where what is left falls below the limit."""
        if self.path.silent_at is not None:
            return self.path.points[self.path.silent_at]
        return self.path.crossing(math.log10(self.limit(evidence).value), down=True)

    def kind(self, evidence: Evidence) -> tuple[object, ...]:
        """What is the same of layers side by side that lose their gradient behind one point."""
        label, points = self.where(evidence).label, self.path.points
        behind = [near.label for far, near in pairwise(points) if far.label == label]
        return self.severity, self.path.entry.type, *behind[:1]

    def limit(self, evidence: Evidence) -> Limit:
        """The limit that it is below."""
        return evidence.limits["min_ratio" if self.severity == "failure" else "warn_min_ratio"]


def _compared(evidence: Evidence) -> Iterator[Finding]:
    yield from _unseen(evidence.first)
    alike: dict[tuple[object, ...], list[_Lost]] = {}
    for index, path in enumerate(evidence.first.paths):
        if not path.judged or math.isnan(path.vanishing):
            continue
        if path.entry.norm == 0 and gets_round(path, evidence.first):
            yield _got_round(path, evidence.first)
            continue
        levelled = ""
        if path.last.norm == 0:
            woken = find_woken(path, evidence.second)
            if woken is None:
                yield _silent_loss(evidence.first, index)
                continue
            path = woken
            severity = severity_of(path.vanishing, evidence)
        else:
            reached = path.vanishing
            if evidence.second is not None:
                reached = max(reached, second_reach(path, evidence.second))
            severity = severity_of(reached, evidence)
            if severity == "warning" and evidence.second and levels_out(path.vanishing, reached):
                levelled = levelled_to(reached, evidence.second)
        if severity is not None and (levelled or _is_small_branch(path, evidence)):
            severity = "info"
        if severity is not None:
            lost = _Lost(path, index, severity, levelled)
            alike.setdefault(lost.kind(evidence), []).append(lost)
    for siblings in alike.values():
        yield _finding(sorted(siblings, key=lambda lost: lost.path.vanishing), evidence)


def _unseen(profile: GradientProfile) -> Iterator[Finding]:
    """Tell of layers that the forward does not call although the loss depends on their weights."""
    uncalled = set(profile.uncalled)
    busy = [p for p in profile.parameters if p.gradient and not p.other_names]
    called = {output.name for output in profile.outputs if output.state == "measured"}
    lone = (p.module for p in busy if p.module.rpartition(".")[0] not in called)
    names = [name for name in dict.fromkeys(lone) if name in uncalled]
    if names:
        gets = "gets" if len(names) == 1 else "get"
        yield RULE.finding(
            "info",
            names[0],
            f"nothing to judge: {count(len(names), 'layer')} ({listing(names)}) {gets} a gradient"
            " without being called in the forward (in the loss, or by their weights alone?)",
            profile=profile,
        )


def _got_round(path: GradientPath, profile: GradientProfile) -> Finding:
    return RULE.finding(
        "info",
        path.first.label,
        f"nothing to judge: the weights of {path.first.title} get a gradient that does not come"
        " through its output, as where the loss is made of gradients",
        profile=profile,
    )


def _is_small_branch(path: GradientPath, evidence: Evidence) -> bool:
    """Whether a path is of next to no weight beside another, whose branches it joins.

    What makes the bias of an attention or scales its answer may lose its gradient in there, while
    the trunk trains.
    """
    return (
        path.beside is not None
        and path.beside < SMALL_PART
        and any(
            other.beside is None and other.links and not severity_of(other.vanishing, evidence)
            for other in evidence.first.judged_paths
        )
    )


def severity_of(reached: float, evidence: Evidence) -> Severity | None:
    """How bad it is that so little arrives, in decades; None if it is enough."""
    if reached < math.log10(evidence.limits["min_ratio"].value):
        return "failure"
    return "warning" if reached < math.log10(evidence.limits["warn_min_ratio"].value) else None


def _finding(siblings: Sequence[_Lost], evidence: Evidence) -> Finding:
    """One finding for layers side by side, of the one that gets the least."""
    lost, *others = siblings
    path, point, limit = lost.path, lost.where(evidence), lost.limit(evidence)
    if path.silent_at is not None:
        text = f"the gradient vanishes: it is exactly zero from {point.title} on"
    else:
        arrives = portion(path.vanishing, "it")
        text = f"the gradient vanishes: {arrives} reaches {path.destination}"
    if others:
        names = listing([other.path.entry.label for other in others], 2)
        most = factor(max(other.path.vanishing for other in others))
        text += f", {'likewise' if most == factor(path.vanishing) else f'at most {most}'} {names}"
    text += lost.levelled or f"; limit x{number(limit.value)} ({limit.source})"
    return RULE.finding(
        lost.severity,
        point.label,
        text,
        profile=evidence.first,
        value=power(path.vanishing),
        limit=limit,
        path=lost.index,
    )


def _silent_loss(profile: GradientProfile, index: int) -> Finding:
    """The loss sends nothing back: a perfect fit if it is zero, else a loss that cannot teach."""
    path = profile.paths[index]
    return RULE.finding(
        "warning" if profile.loss == 0 else "failure",
        path.last.label,
        f"no gradient leaves the loss: it is exactly zero at {path.last.title} already;"
        f" the loss is {number(profile.loss)}",
        profile=profile,
        value=0.0,
        path=index,
    )


def _or_not_judged(found: list[Finding], profile: GradientProfile) -> list[Finding]:
    """The same, but the first is the reason for the verdict where there was nothing to judge."""
    judged = any(
        path.links and path.finite and (path.entry.norm > 0 or not gets_round(path, profile))
        for path in profile.judged_paths
    )
    if judged or any(finding.complains for finding in found):
        return found
    reason, *others = found or [_nothing_to_compare(profile)]
    return [replace(reason, severity="not judged"), *others]


def _nothing_to_compare(profile: GradientProfile) -> Finding:
    paths = profile.judged_paths
    names = listing([path.first.title for path in paths])
    if any(path.links for path in paths):
        reason = f"what gradient gets to {names} is no finite number"
    elif paths and profile.uncut:
        reason = f"{names} alone is left behind a loop over steps with data of their own"
    elif len(paths) == 1:
        reason = f"only {names} gets a gradient, and one layer has no way for it to vanish on"
    elif paths:
        reason = f"the gradient gets to {names} with no other layer on the way"
    elif profile.paths:
        for path in profile.paths:
            if path.entry.norm == 0 and gets_round(path, profile):
                return _got_round(path, profile)
        names = listing([path.first.title for path in profile.paths])
        reason = f"the gradient gets to {names} alone, which the batch has no part in"
    else:
        reason = "no layer's output gets a gradient"
    where = paths[0].first.label if paths else profile.last_label
    return RULE.finding("info", where, f"nothing to judge: {reason}", profile=profile)


def least_reach(profile: GradientProfile) -> float | None:
    """The least that reaches a first layer, as a ratio."""
    paths = [path for path in profile.judged_paths if path.links and path.finite]
    return power(min(path.vanishing for path in paths)) if paths else None


RULE = Rule(
    code="GH101",
    name="vanishing",
    summary="the gradient must not vanish between the loss and the first layer",
    reads="V = max(L2 ratio, RMS ratio), first layer over last, along each gradient path",
    check=check,
    confirm_from="warning",
    error=VanishingGradientError,
    doc=__doc__,
    settings=("min_ratio", "warn_min_ratio"),
    quantity=Quantity(least_reach, better="larger"),
    cause=partial(path_cause, down=True),
    of_scale=True,
    patient=True,
)

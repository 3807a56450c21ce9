"""GH601: the gradient of the regularisation term must not drown that of the data.

## What it does

Compares, weight by weight, the gradient of the penalty (`regularizer=`, and the weight decay of the
optimizer where that is part of the gradient) with that of the loss; `max_penalty` is the largest
ratio. Weights on a gradient path fail, those in side branches warn.

## Why

Weights that follow the penalty go to zero, whatever the data says.

## Example

Fails:

```python
import torch
from torch import nn


def l1_norm(model):
    return sum(p.abs().sum() for p in model.parameters())


def test_penalty(gradhealth):
    gradhealth.assert_no_dominating_regularizer(
        nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1)),
        torch.randn(64, 8),
        torch.randn(64, 1),
        loss=nn.functional.mse_loss,
        regularizer=lambda model: 10 * l1_norm(model),
    )
```

Passes:

```python
import torch
from torch import nn


def l1_norm(model):
    return sum(p.abs().sum() for p in model.parameters())


def test_penalty(gradhealth):
    gradhealth.assert_no_dominating_regularizer(
        nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1)),
        torch.randn(64, 8),
        torch.randn(64, 1),
        loss=nn.functional.mse_loss,
        regularizer=lambda model: 1e-4 * l1_norm(model),
    )
```

## When to ignore it

Where the penalty is to lead at first and fades in a schedule.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from pytest_gradhealth.errors import DominatingRegularizerError
from pytest_gradhealth.formatting import (
    MOST_ROWS,
    View,
    columns,
    factor,
    listing,
    number,
    shortened,
)
from pytest_gradhealth.results.diagnosis import Diagnosis, Finding, Severity
from pytest_gradhealth.results.names import module_of
from pytest_gradhealth.results.path import decades
from pytest_gradhealth.results.profile import GradientProfile, ParameterRecord
from pytest_gradhealth.rules.rule import Cause, Evidence, Rule

#: Growth of the loss, over itself, by which the steps before the second look have ruined it.
RUIN = 9.0


def check(evidence: Evidence) -> Iterator[Finding]:
    """Compare penalty and data gradient of every weight with `max_penalty`, in both looks."""
    limit = evidence.limits.get("max_penalty")
    if limit is None:
        return
    broken = [p for p in evidence.first.parameters if not math.isfinite(p.penalty or 0.0)]
    if broken:
        name = broken[0].name
        what = "NaN" if math.isnan(broken[0].penalty or 0.0) else "infinite"
        text = f"the gradient of the penalty is {what} for {listing([p.name for p in broken])}"
        yield RULE.finding("failure", module_of(name) or name, text, profile=evidence.first)
        return
    found = drowned(evidence.first, evidence.second, limit.value)
    trunk = {point.name for path in evidence.first.judged_paths for point in path.points}
    severities: tuple[Severity, ...] = ("failure", "warning")
    for severity in severities:
        weights = [p for p in found if _is_on(trunk, p) == (severity == "failure")]
        if not weights:
            continue
        worst = weights[0]
        yield RULE.finding(
            severity,
            module_of(worst.name) or worst.name,
            f"the penalty drowns the data: its gradient is x{number(dominance(worst))} that of the"
            f" loss for {listing([p.name for p in weights])}; limit x{number(limit.value)}"
            f" ({limit.source})",
            profile=evidence.first,
            value=dominance(worst),
            limit=limit,
        )


def drowned(
    first: GradientProfile, second: GradientProfile | None, limit: float
) -> list[ParameterRecord]:
    """The weights whose penalty has more than `limit` times the gradient of the loss, worst first.

    A second look clears a weight if it is below the limit there. Without a gradient in the first
    look (behind a gate that starts at zero), any gradient in the second clears it: how large that
    is depends on the steps in between. A look that those steps have ruined clears nothing.
    """
    kept = [p for p in first.parameters if p.module not in first.forgotten]
    found = [p for p in kept if len(p.shape) > 1 and dominance(p) > limit]
    if second is not None and not _is_ruined(first, second):
        later = {p.name: p for p in second.parameters}
        found = [
            p
            for p in found
            if (not later[p.name].gradient if p.gradient == 0 else dominance(later[p.name]) > limit)
        ]
    return sorted(found, key=dominance, reverse=True)


def dominance(parameter: ParameterRecord) -> float:
    """Norm of the penalty's gradient over that of the loss; 0 without a penalty or a gradient."""
    if not parameter.penalty or parameter.gradient is None:
        return 0.0
    return parameter.penalty / parameter.gradient if parameter.gradient else math.inf


def _is_ruined(first: GradientProfile, second: GradientProfile) -> bool:
    if second.non_finite is not None or not math.isfinite(second.loss):
        return True
    return second.loss > first.loss + RUIN * abs(first.loss)


def _is_on(trunk: set[str], parameter: ParameterRecord) -> bool:
    """Whether a weight belongs to a module on a gradient path, or to the model itself."""
    modules = {module_of(name) for name in (parameter.name, *parameter.other_names)}
    return "" in modules or bool(modules & trunk)


def cause_of(finding: Finding, _profile: GradientProfile) -> Cause | None:
    """Whether the loss has any gradient there, and how strong a penalty would equal it."""
    value = finding.value
    if value is None:
        return None
    if math.isinf(value):
        return Cause(
            "the loss has no gradient there at all, so that only the penalty moves the weights",
            "find out why no gradient arrives before choosing a penalty",
        )
    return Cause(
        "at that strength the weights follow the penalty and not the data",
        f"a penalty or weight decay {number(value)} times weaker makes both equally strong",
    )


def exhibit(diagnosis: Diagnosis, _findings: Sequence[Finding], view: View) -> str:
    """The weights with the gradients of penalty and loss; ">" marks those that are drowned."""
    profile, limit = diagnosis.profile, diagnosis.limits["max_penalty"].value
    under = drowned(profile, diagnosis.confirmation, limit)
    weights = [p for p in profile.parameters if p.penalty and p.gradient is not None]
    weights = sorted((p for p in weights if len(p.shape) > 1), key=lambda p: -decades(*_pair(p)))
    shown = weights if view.verbose else weights[:MOST_ROWS]
    rows = [
        [
            ">" if p in under else "",
            shortened(p.name, 30),
            *map(number, _pair(p)),
            factor(decades(*_pair(p))),
        ]
        for p in shown
    ]
    if len(shown) < len(weights):
        rows.append(["", f"... {len(weights) - len(shown)} more", "", "", ""])
    names = ["", "weight", "penalty gradient", "loss gradient", "ratio"]
    return columns(rows, names, "llrrr")


def _pair(parameter: ParameterRecord) -> tuple[float, float]:
    return parameter.penalty or 0.0, parameter.gradient or 0.0


RULE = Rule(
    code="GH601",
    name="regulariser-dominates",
    summary="the gradient of the regularisation term must not drown that of the data",
    reads="gradient norms of the penalty (with coupled weight decay) and of the loss, per weight",
    check=check,
    error=DominatingRegularizerError,
    doc=__doc__,
    settings=("max_penalty",),
    cause=cause_of,
    exhibit=exhibit,
)

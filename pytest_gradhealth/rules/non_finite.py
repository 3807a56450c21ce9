"""GH301: loss, activations and gradients must be finite.

## What it does

Looks for NaN and infinity in the loss, in every module's output and in every gradient. Where there
is any, the batch is run once more to name the module and the operation that turns finite numbers
into it first, in the forward, the loss or the backward, with what is wrong with that operation, as
far as the numbers that it got tell. It is told before all else, which mostly comes of it. A
parameter that is not finite and gets a gradient of zero fails as well.

## Why

One NaN in a gradient is in every weight after the next step. Where it stays inside, behind a mask
say, there is a warning.

## Example

Fails:

```python
import torch
from torch import nn


def test_gradients(gradhealth):
    gradhealth.assert_healthy(
        nn.Linear(8, 4), torch.randn(64, 8), loss=lambda y: y.relu().log().mean()
    )
```

Passes:

```python
import torch
from torch import nn


def test_gradients(gradhealth):
    gradhealth.assert_healthy(
        nn.Linear(8, 4), torch.randn(64, 8), loss=lambda y: nn.functional.softplus(y).log().mean()
    )
```

## When to ignore it

Never as a whole. A layer whose NaN is masked out before it gets anywhere can be left out by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from pytest_gradhealth.errors import NonFiniteGradientError
from pytest_gradhealth.formatting import listing
from pytest_gradhealth.results.diagnosis import Finding
from pytest_gradhealth.results.non_finite import NonFinite
from pytest_gradhealth.results.profile import GradientProfile, OutputRecord, ParameterRecord
from pytest_gradhealth.rules.backward_faults import cause_in_backward
from pytest_gradhealth.rules.forward_faults import FORWARD
from pytest_gradhealth.rules.rule import Cause, Evidence, Rule

_LOADED = "check how it is initialised or loaded"


def check(evidence: Evidence) -> Iterator[Finding]:
    """Fail on a non-finite loss or gradient; warn of NaN that stays inside the model."""
    profile = evidence.first
    if profile.non_finite is not None:
        bad, text = profile.non_finite, describe(profile.non_finite)
        if _is_masked(profile):
            text += "; no parameter is hit yet"
            yield RULE.finding("warning", bad.layer, text, profile=profile)
        else:
            yield RULE.finding("failure", bad.layer, text, profile=profile)
        return
    stuck = _stuck(profile)
    if stuck:
        text = f"not finite, and without a gradient: {listing([p.name for p in stuck])}"
        yield RULE.finding("failure", stuck[0].module or stuck[0].name, text, profile=profile)
    hidden = [output for output in profile.outputs if _holds_nan(output)]
    if hidden:
        names = listing([output.name for output in hidden])
        yield RULE.finding(
            "warning",
            hidden[0].name,
            f"NaN in the output of {names}, although loss and gradients are finite",
            profile=profile,
        )


def describe(bad: NonFinite) -> str:
    """Say in one sentence where the first non-finite value came up, and in which operation."""
    value = {"nan": "NaN", "inf": "infinite", "-inf": "infinite"}[bad.value]
    where = f"{bad.layer} ({bad.type})" if bad.type else bad.layer
    by = f", in {bad.op}" if bad.op else ""
    if bad.during == "loss":
        if bad.parameter:
            return f"the loss is {value}: the {bad.parameter} are not finite"
        return f"the loss is {value}{by}, although every layer's output is finite"
    if bad.during == "forward":
        if bad.parameter:
            return f"the forward pass turns {value} in {where}: its {bad.parameter} is not finite"
        held = bad.taken == "-inf" != bad.value
        given = "its input held -inf" if held else "its input was finite"
        return f"the forward pass turns {value} in {where}{by}: {given}"
    by = f", in the backward of {bad.op}" if bad.op else ""
    return f"the gradient turns {value} in {where}{by}: what came from the loss was finite"


def _is_masked(profile: GradientProfile) -> bool:
    """Whether loss and parameters' gradients are finite: a ReLU's mask may drop what is not."""
    gradients = [p.gradient for p in profile.parameters if p.gradient is not None]
    return bool(gradients) and all(map(math.isfinite, [profile.loss, *gradients]))


def _stuck(profile: GradientProfile) -> list[ParameterRecord]:
    """Parameters that are NaN or infinite and stay so; a mask among them has a gradient as well."""
    return [p for p in profile.parameters if p.state == "zero" and not math.isfinite(p.norm)]


def _holds_nan(output: OutputRecord) -> bool:
    return output.activation is not None and math.isnan(output.activation)


def cause_of(_finding: Finding, profile: GradientProfile) -> Cause | None:
    """What makes such numbers in the operation that made the first, where that is known."""
    bad = profile.non_finite
    if bad is None:
        stuck = [p.name for p in _stuck(profile)]
        because = f"{listing(stuck)} was not finite to start with"
        return Cause(because, _LOADED, certain=True) if stuck else None
    if bad.parameter == "targets":
        return Cause(
            "the targets hold NaN or infinity",
            "leave out what has no target: keep = y.isfinite()",
            certain=True,
        )
    if bad.parameter:
        return Cause(f"{bad.parameter} of {bad.layer} holds it", _LOADED, certain=True)
    if bad.during == "backward":
        return cause_in_backward(bad)
    return next((fault.cause(bad) for fault in FORWARD if fault.fits(bad)), None)


RULE = Rule(
    code="GH301",
    name="non-finite",
    summary="loss, activations and gradients must be finite",
    reads="the loss, every module output and every gradient",
    check=check,
    confirm_from=None,
    leads=True,
    error=NonFiniteGradientError,
    doc=__doc__,
    cause=cause_of,
    of_scale=True,
)

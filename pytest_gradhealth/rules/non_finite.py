"""GH301: loss, activations and gradients must be finite."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pytest_gradhealth.errors import NonFiniteGradientError
from pytest_gradhealth.formatting import listing
from pytest_gradhealth.results.diagnosis import Finding
from pytest_gradhealth.results.profile import GradientProfile, NonFinite, OutputRecord
from pytest_gradhealth.rules.rule import Evidence, Rule


def check(evidence: Evidence) -> Iterator[Finding]:
    """Fail on a non-finite loss or gradient; warn of NaN that stays inside the model.

    >>> from pytest_gradhealth.results.profile import GradientProfile, NonFinite
    >>> bad = NonFinite("forward", "layers.2", "Exp", "inf")
    >>> look = GradientProfile(0, 0, float("nan"), paths=(), non_finite=bad)
    >>> [(f.severity, f.layer) for f in check(Evidence(look, None, {}))]
    [('failure', 'layers.2')]
    """
    profile = evidence.first
    if profile.non_finite is not None:
        bad, text = profile.non_finite, describe(profile.non_finite)
        if _is_masked(profile):
            text += "; no parameter is hit yet"
            yield RULE.finding("warning", bad.layer, text, profile=profile)
        else:
            yield RULE.finding("failure", bad.layer, text, profile=profile)
        return
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
    """Say in one sentence where the first non-finite value came up."""
    value = {"nan": "NaN", "inf": "infinite", "-inf": "infinite"}[bad.value]
    where = f"{bad.layer} ({bad.type})" if bad.type else bad.layer
    if bad.during == "loss":
        return f"the loss is {value}, although every layer's output is finite"
    if bad.during == "forward":
        if bad.parameter:
            return f"the forward pass turns {value} in {where}: its {bad.parameter} is not finite"
        return f"the forward pass turns {value} in {where}: its input was finite"
    by = f", in the backward of {bad.op}" if bad.op else ""
    return f"the gradient turns {value} in {where}{by}: what came from the loss was finite"


def _is_masked(profile: GradientProfile) -> bool:
    """Whether loss and parameters' gradients are finite: a ReLU's mask may drop what is not."""
    gradients = [p.gradient for p in profile.parameters if p.gradient is not None]
    return bool(gradients) and all(map(math.isfinite, [profile.loss, *gradients]))


def _holds_nan(output: OutputRecord) -> bool:
    return output.activation is not None and math.isnan(output.activation)


RULE = Rule(
    code="GH301",
    name="non-finite",
    summary="loss, activations and gradients must be finite",
    reads="the loss, every module output and every gradient",
    check=check,
    confirm_from=None,
    error=NonFiniteGradientError,
)

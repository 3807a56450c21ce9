"""GH601: the gradient of the regularisation term must not drown that of the data."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pytest_gradhealth.errors import DominatingRegularizerError
from pytest_gradhealth.formatting import listing, number
from pytest_gradhealth.results.diagnosis import Finding, Severity
from pytest_gradhealth.results.names import module_of
from pytest_gradhealth.results.profile import GradientProfile, ParameterRecord
from pytest_gradhealth.rules.rule import Evidence, Rule

#: Growth of the loss, over itself, by which the steps before the second look have ruined it.
RUIN = 9.0


def check(evidence: Evidence) -> Iterator[Finding]:
    """Compare penalty and data gradient of every weight with `max_penalty`, in both looks.

    Weights on a gradient path fail; those in side branches, which may start without a gradient of
    their own, are a warning.

    >>> from pytest_gradhealth.results.diagnosis import Limit
    >>> from pytest_gradhealth.results.profile import GradientProfile, ParameterRecord
    >>> from pytest_gradhealth.results.path import GradientPath, PathPoint
    >>> point = PathPoint("fc", "Linear", (8, 4), norm=1.0, numel=32)
    >>> drowned = ParameterRecord("fc.weight", (4, 4), "gradient", 2.0, gradient=0.1, penalty=40.0)
    >>> path = GradientPath((point,), entry=point)
    >>> look = GradientProfile(0, 0, 2.3, paths=(path,), parameters=(drowned,))
    >>> [(f.severity, f.layer) for f in check(Evidence(look, None, {"max_penalty": Limit(10, "")}))]
    [('failure', 'fc')]
    """
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
    found = [p for p in first.parameters if len(p.shape) > 1 and dominance(p) > limit]
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


RULE = Rule(
    code="GH601",
    name="regulariser-dominates",
    summary="the gradient of the regularisation term must not drown that of the data",
    reads="gradient norms of the penalty (with coupled weight decay) and of the loss, per weight",
    check=check,
    error=DominatingRegularizerError,
)

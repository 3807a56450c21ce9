"""GH601: the gradient of the regularisation term must not drown that of the data."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pytest_gradhealth.errors import DominatingRegularizerError
from pytest_gradhealth.records import Finding, GradientProfile
from pytest_gradhealth.rules.rule import Evidence, Rule
from pytest_gradhealth.wording import listing, number


def check(evidence: Evidence) -> Iterator[Finding]:
    """Compare penalty and data gradient of every weight with `max_penalty`, in both looks.

    Weights on a gradient path fail; those in side branches, which may start without a gradient of
    their own, are a warning.

    >>> from pytest_gradhealth.records import GradientProfile, Limit, ParameterRecord
    >>> from pytest_gradhealth.records import GradientPath, PathPoint
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
    drowned = _drowned(evidence.first, limit.value)
    if evidence.second is not None:
        again = _drowned(evidence.second, limit.value)
        drowned = {name: value for name, value in drowned.items() if name in again}
    trunk = {point.name for path in evidence.first.judged_paths for point in path.points}
    for severity, on_trunk in (("failure", True), ("warning", False)):
        found = {n: v for n, v in drowned.items() if (n.rpartition(".")[0] in trunk) == on_trunk}
        if not found:
            continue
        worst = max(found, key=lambda name: found[name])
        names = listing([worst, *(name for name in found if name != worst)])
        yield RULE.finding(
            "failure" if severity == "failure" else "warning",
            worst.rpartition(".")[0] or worst,
            f"the penalty drowns the data: its gradient is x{number(found[worst])} that of the loss"
            f" for {names}; limit x{number(limit.value)} ({limit.source})",
            profile=evidence.first,
            value=found[worst],
            limit=limit,
        )


def _drowned(profile: GradientProfile, limit: float) -> dict[str, float]:
    """Weights whose penalty gradient is more than `limit` times the data gradient, and how much."""
    found: dict[str, float] = {}
    for p in profile.parameters:
        if p.penalty is None or len(p.shape) < 2 or p.gradient is None or p.penalty == 0:
            continue
        value = p.penalty / p.gradient if p.gradient else math.inf
        if value > limit:
            found[p.name] = value
    return found


RULE = Rule(
    code="GH601",
    name="regulariser-dominates",
    summary="the gradient of the regularisation term must not drown that of the data",
    reads="gradient norms of the penalty (with coupled weight decay) and of the loss, per weight",
    check=check,
    error=DominatingRegularizerError,
)

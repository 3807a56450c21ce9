"""GH102: the gradient must reach as far back in time as the task needs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from pytest_gradhealth.errors import VanishingInTimeError
from pytest_gradhealth.formatting import count, factor, number
from pytest_gradhealth.results.diagnosis import Finding, Severity
from pytest_gradhealth.results.path import power
from pytest_gradhealth.results.profile import GradientProfile, TimeRecord
from pytest_gradhealth.rules.rule import Evidence, Rule


def check(evidence: Evidence) -> Iterator[Finding]:
    """Compare what reaches `dependency` steps back with `min_ratio` and `warn_min_ratio`.

    >>> from pytest_gradhealth.results.diagnosis import Limit
    >>> from pytest_gradhealth.results.profile import GradientProfile, TimeRecord
    >>> fading = TimeRecord("rnn", "RNN", tuple(0.5**d for d in range(28)), dependency=27)
    >>> look = GradientProfile(0, 0, 2.3, paths=(), times=(fading,))
    >>> limits = {"min_ratio": Limit(1e-5, "default"), "warn_min_ratio": Limit(1e-3, "default")}
    >>> [(f.severity, f.layer) for f in check(Evidence(look, None, limits))]
    [('failure', 'rnn')]
    """
    for record in evidence.first.times:
        if not record.finite or max(record.norms) == 0:
            continue
        severity = _severity(record.reach, evidence)
        if severity == "failure" and evidence.second is not None:
            severity = _severity(_again(record, evidence), evidence)
        if severity is not None:
            yield _finding(record, severity, evidence)


def _again(record: TimeRecord, evidence: Evidence) -> float:
    for other in () if evidence.second is None else evidence.second.times:
        if (other.name, other.reverse) == (record.name, record.reverse) and other.finite:
            return other.reach
    return -math.inf


def _severity(reached: float, evidence: Evidence) -> Severity | None:
    if reached < math.log10(evidence.limits["min_ratio"].value):
        return "failure"
    return "warning" if reached < math.log10(evidence.limits["warn_min_ratio"].value) else None


def _finding(record: TimeRecord, severity: Severity, evidence: Evidence) -> Finding:
    limit = evidence.limits["min_ratio" if severity == "failure" else "warn_min_ratio"]
    where = f"{record.name} (backward direction)" if record.reverse else record.name
    return RULE.finding(
        severity,
        record.name,
        f"the gradient vanishes in time: {factor(record.reach)} of it gets"
        f" {count(record.dependency, 'step')} back in {where}; limit x{number(limit.value)}"
        f" ({limit.source}), passed after {count(record.horizon(math.log10(limit.value)), 'step')}",
        profile=evidence.first,
        value=power(record.reach),
        limit=limit,
    )


def too_short(findings: Iterable[Finding], profile: GradientProfile) -> list[TimeRecord]:
    """The records that findings of this rule are about, the worst first."""
    layers = {finding.layer for finding in findings if finding.code == RULE.code}
    return sorted((r for r in profile.times if r.name in layers), key=lambda r: r.reach)[:1]


RULE = Rule(
    code="GH102",
    name="vanishing-in-time",
    summary="the gradient must reach as far back in time as the task needs",
    reads="gradient of the last state by the input, step by step, where dependency= is declared",
    check=check,
    error=VanishingInTimeError,
)

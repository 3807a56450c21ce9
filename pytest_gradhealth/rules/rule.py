"""What a rule is and what it gets to read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pytest_gradhealth.errors import GradientHealthError
from pytest_gradhealth.results.diagnosis import RANK, Finding, Limit, Severity
from pytest_gradhealth.results.path import power
from pytest_gradhealth.results.profile import GradientProfile


@dataclass(frozen=True)
class Evidence:
    """What a rule judges: the first look and, once a rule would fail on it, the second.

    `second` is the look after the confirm steps; None until some rule would fail, and for good
    when confirm steps are switched off. `limits` holds the thresholds by setting name.
    """

    first: GradientProfile
    second: GradientProfile | None
    limits: Mapping[str, Limit]


@dataclass(frozen=True)
class Rule:
    """A check with a stable code.

    `check` maps the evidence to findings. A rule that fails on the first look is asked again with
    the second; what it returns then stands. `confirm_from` is the mildest severity that calls for
    the second look; with None the first look decides. `error` is what an assertion raises for its
    failures; `summary` and `reads` are one-liners. `echoes` names rules whose findings say the same
    more plainly: beside one that is as severe, this rule is silent.

    >>> from pytest_gradhealth.rules import built_in_rules
    >>> [rule.code for rule in built_in_rules()][:5]
    ['GH101', 'GH102', 'GH103', 'GH201', 'GH202']
    """

    code: str
    name: str
    summary: str
    reads: str
    check: Callable[[Evidence], Iterable[Finding] | None]
    confirm_from: Severity | None = "failure"
    error: type[GradientHealthError] = GradientHealthError
    echoes: tuple[str, ...] = ()

    def wants_second_look(self, findings: Iterable[Finding]) -> bool:
        """Whether findings from the first look alone need confirming."""
        return self.confirm_from is not None and any(
            RANK[finding.severity] <= RANK[self.confirm_from] for finding in findings
        )

    def finding(
        self,
        severity: Severity,
        layer: str,
        message: str,
        *,
        profile: GradientProfile,
        value: float | None = None,
        limit: Limit | None = None,
        path: int | None = None,
    ) -> Finding:
        """Make a finding of this rule; `limit` brings its source along."""
        return Finding(
            code=self.code,
            rule=self.name,
            severity=severity,
            layer=layer,
            message=message,
            value=value,
            limit=limit.value if limit else None,
            limit_source=limit.source if limit else "",
            seed=profile.seed,
            path=path,
        )


def without_echoes(rules: Iterable[Rule], findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Leave out what another rule has said more plainly."""
    echoes = {rule.code: rule.echoes for rule in rules}
    return tuple(
        finding
        for finding in findings
        if not any(
            other.code in echoes.get(finding.code, ())
            and RANK[other.severity] <= RANK[finding.severity]
            for other in findings
        )
    )


def value_of(code: str, profile: GradientProfile) -> float | None:
    """What a rule compares with its limit, None for rules that compare nothing."""
    paths = [path for path in profile.judged_paths if path.links and path.finite]
    if code == "GH101" and paths:
        return power(min(path.vanishing for path in paths))
    if code == "GH201" and paths:
        return power(max(path.exploding for path in paths))
    if code == "GH102" and profile.times:
        return power(min(record.reach for record in profile.times))
    if code == "GH202" and profile.updates:
        return max(update.change for update in profile.updates)
    if code == "GH203":
        return profile.magnitude
    if code == "GH402":
        return max((seen.dead for seen in profile.activations if seen.dead is not None), default=0)
    if code == "GH403":
        return max((seen.flat for seen in profile.activations if seen.flat is not None), default=0)
    return profile.spread if code == "GH404" else None

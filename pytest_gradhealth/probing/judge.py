"""Rules applied to what was measured, also again with other limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pytest_gradhealth.results.diagnosis import RANK, Diagnosis, Finding, Limit, verdict_of
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules import Evidence, Rule
from pytest_gradhealth.rules.rule import without_echoes


@dataclass(frozen=True)
class Criteria:
    """What models are judged by: rules, their limits, and the steps before a second look.

    With 0 `confirm_steps`, what fails in the first look stands.
    """

    rules: Sequence[Rule]
    limits: Mapping[str, Limit]
    confirm_steps: int = 0

    def judge(
        self, first: GradientProfile, second: GradientProfile | None = None
    ) -> tuple[Finding, ...]:
        """Apply the rules to what was measured."""
        evidence = Evidence(first, second, self.limits)
        found = [finding for rule in self.rules for finding in rule.judge(evidence)]
        return without_echoes(self.rules, found)

    def in_doubt(self, findings: Sequence[Finding]) -> bool:
        """Whether some rule wants its findings confirmed by a second look."""
        return any(
            rule.wants_second_look(f for f in findings if f.code == rule.code)
            for rule in self.rules
        )


def judge_again(diagnosis: Diagnosis, criteria: Criteria) -> tuple[Diagnosis, bool]:
    """Judge what was measured by other criteria.

    Also says whether that leaves a failure that no second look has confirmed.
    """
    findings: list[Finding] = []
    unconfirmed = False
    for seed in diagnosis.seeds:
        first, *more = diagnosis.looks(seed)
        found = criteria.judge(first, more[0] if more else None)
        findings = with_news(findings, found)
        unconfirmed |= not more and criteria.in_doubt(found)
    changed = replace(
        diagnosis,
        findings=worst_first(findings),
        verdict=verdict_of(findings),
        limits=criteria.limits,
    )
    return changed, unconfirmed


def with_news(known: Sequence[Finding], found: Sequence[Finding]) -> list[Finding]:
    """Add what another seed found, but for what is the same thing again."""

    def thing(finding: Finding) -> tuple[object, ...]:
        where = finding.layer if finding.path is None else finding.path
        return finding.code, finding.severity, where

    seeds = {finding.seed for finding in known}
    things = {thing(finding) for finding in known}
    return [*known, *(f for f in found if f.seed in seeds or thing(f) not in things)]


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings in the order of a diagnosis.

    Beside something worse it is information that there was nothing to judge.
    """
    found = [*findings]
    if any(finding.complains for finding in found):
        found = [replace(f, severity="info") if f.severity == "not judged" else f for f in found]
    return tuple(sorted(found, key=lambda finding: RANK[finding.severity]))

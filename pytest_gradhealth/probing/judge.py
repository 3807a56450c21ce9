"""Rules applied to what was measured, also again with other limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from pytest_gradhealth.results.diagnosis import RANK, Diagnosis, Finding, Limit, verdict_of
from pytest_gradhealth.rules import Evidence, Rule
from pytest_gradhealth.rules.rule import without_echoes


def judge(rules: Iterable[Rule], evidence: Evidence) -> tuple[Finding, ...]:
    """Apply rules to what was measured."""
    rules = tuple(rules)
    found = [finding for rule in rules for finding in rule.check(evidence) or ()]
    return without_echoes(rules, found)


def judge_again(
    diagnosis: Diagnosis, rules: Iterable[Rule], limits: Mapping[str, Limit]
) -> tuple[Diagnosis, bool]:
    """Judge what was measured against other limits.

    Also says whether that leaves a failure that no second look has confirmed.
    """
    rules = tuple(rules)
    findings: list[Finding] = []
    unconfirmed = False
    for seed in diagnosis.seeds:
        first, *more = diagnosis.looks(seed)
        evidence = Evidence(first, more[0] if more else None, limits)
        found = judge(rules, evidence)
        findings = with_news(findings, found)
        unconfirmed |= not more and in_doubt(rules, found)
    findings.sort(key=lambda finding: RANK[finding.severity])
    changed = replace(
        diagnosis, findings=tuple(findings), verdict=verdict_of(findings), limits=limits
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


def in_doubt(rules: Sequence[Rule], findings: Sequence[Finding]) -> bool:
    """Whether some rule wants its findings confirmed by a second look."""
    return any(rule.wants_second_look(_of(rule, findings)) for rule in rules)


def _of(rule: Rule, findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.code == rule.code]

"""Rules applied to what was measured, also again with other limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pytest_gradhealth.config.settings import Settings, check_codes, ignored_names, is_selected
from pytest_gradhealth.probing.ignored import matches, without
from pytest_gradhealth.results.diagnosis import RANK, Diagnosis, Finding, Limit, verdict_of
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules import Evidence, Rule


@dataclass(frozen=True)
class Criteria:
    """What models are judged by: rules, their limits, and the steps before a second look.

    With 0 `confirm_steps`, what fails in the first look stands. `ignored` are the patterns of names
    that a rule, by its code, does not judge.
    """

    rules: Sequence[Rule]
    limits: Mapping[str, Limit]
    confirm_steps: int = 0
    ignored: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings, rules: Sequence[Rule], limits: Mapping[str, Limit]) -> Criteria:
        """Rules that were chosen, with what settings say of how to apply them."""
        ignored = {rule.code: ignored_names(rule.code, settings) for rule in rules}
        return cls(rules, limits, settings.confirm_steps, ignored)

    def judge(
        self, first: GradientProfile, second: GradientProfile | None = None
    ) -> tuple[Finding, ...]:
        """Apply the rules to what was measured."""
        evidence = Evidence(first, second, self.limits)
        found = [finding for rule in self.rules for finding in self._judged_by(rule, evidence)]
        return _in_order(self.rules, found)

    def _judged_by(self, rule: Rule, evidence: Evidence) -> Sequence[Finding]:
        """What a rule finds where it is not told to ignore it.

        It counts without what is ignored; what it would not find otherwise, nobody asked for.
        """
        found, patterns = rule.judge(evidence), self.ignored.get(rule.code, ())
        if not patterns or not found:
            return found
        second = evidence.second and without(evidence.second, patterns)
        rest = replace(evidence, first=without(evidence.first, patterns), second=second)
        mildest = min(RANK[finding.severity] for finding in found)
        return [
            finding
            for finding in rule.judge(rest)
            if RANK[finding.severity] >= mildest and not matches(finding.layer, patterns)
        ]

    def in_doubt(self, findings: Sequence[Finding]) -> bool:
        """Whether some rule wants its findings confirmed by a second look."""
        return any(
            rule.wants_second_look(f for f in findings if f.code == rule.code)
            for rule in self.rules
        )

    def hangs_on_steps(self, findings: Sequence[Finding]) -> bool:
        """Whether something fails that stands or falls with further steps.

        A rule on the steps themselves is borne out where they end in an error.
        """
        of_steps = {rule.code for rule in self.rules if rule.judges_steps}
        return any(f.severity == "failure" and f.code not in of_steps for f in findings)

    def may_yet_pass(self, findings: Sequence[Finding]) -> bool:
        """Whether training may yet cure all that fails, or else a number that warns."""
        patient = {rule.code for rule in self.rules if rule.patient}
        failures = {f.code for f in findings if f.severity == "failure"}
        warnings = {f.code for f in findings if f.severity == "warning" and f.value is not None}
        return failures <= patient and not patient.isdisjoint(failures | warnings)


def _in_order(rules: Iterable[Rule], findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """What explains others first, then what leads, without what another has said more plainly."""
    echoes = {rule.code: rule.echoes for rule in rules}
    first = {rule.code: (not rule.explains, not rule.leads) for rule in rules}
    told = (
        finding
        for finding in findings
        if not any(
            other.code in echoes.get(finding.code, ())
            and RANK[other.severity] <= RANK[finding.severity]
            for other in findings
        )
    )
    return tuple(sorted(told, key=lambda finding: first.get(finding.code, (True, True))))


def chosen_rules(settings: Settings, rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """The rules that settings choose; raises SettingError where they name one that is not there."""
    check_codes(settings, {rule.code: rule.name for rule in rules})
    return tuple(rule for rule in rules if is_selected(rule.code, settings))


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

"""What to do about findings: their causes, what to try, and what would let them pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_gradhealth.results.diagnosis import Diagnosis, Finding
from pytest_gradhealth.rules import explanations, known_rules, rule_of


def causes(diagnosis: Diagnosis, findings: Sequence[Finding]) -> Iterator[tuple[str, str]]:
    """Yield the cause of each finding and what to try, behind the labels "cause" and "try"."""
    rules, profile = known_rules(diagnosis).values(), diagnosis.profile
    behind = explanations(diagnosis)
    seen = (behind.get(f.code, f) for f in findings if f.seed == profile.seed)
    explained = [rule_of(f.code, rules).explain(f, profile) for f in seen]
    cured = any(treatment.outcome == "cured" for treatment in diagnosis.treatments)
    for cause in dict.fromkeys(cause for cause in explained if cause is not None):
        yield "cause", cause.because
        if not cured:  # what was tried says more than what might be
            yield "try", cause.advice


def acceptance(diagnosis: Diagnosis, findings: Sequence[Finding]) -> str:
    """Return what would let the first failure that has a limit pass, "" where nothing would.

    One that another rule explains is not to be let pass.
    """
    rules, behind = known_rules(diagnosis).values(), explanations(diagnosis)
    own = (f for f in findings if f.severity == "failure" and f.code not in behind)
    failed = (f for f in own if f.limit is not None)
    return next((rule_of(f.code, rules).acceptance(f, diagnosis.limits) for f in failed), "")

"""What a diagnosis found, in short."""

from __future__ import annotations

from pytest_gradhealth import Diagnosis, Finding
from pytest_gradhealth.rules import known_rules


def codes(diagnosis: Diagnosis, severity: str = "failure") -> list[str]:
    return [finding.code for finding in diagnosis.findings if finding.severity == severity]


def of(diagnosis: Diagnosis, code: str) -> list[Finding]:
    return [finding for finding in diagnosis.findings if finding.code == code]


def said(diagnosis: Diagnosis) -> list[tuple[str, str, str]]:
    return [(f.code, f.severity, f.layer) for f in diagnosis.findings]


def severities(diagnosis: Diagnosis, code: str) -> list[str]:
    return [f.severity for f in of(diagnosis, code)]


def told(diagnosis: Diagnosis, code: str) -> list[tuple[str, str, str]]:
    return [(f.severity, f.layer, f.message) for f in diagnosis.findings if f.code == code]


def explained(diagnosis: Diagnosis, code: str) -> tuple[str, str, str]:
    """The message of the only finding of a rule, its cause and what to type."""
    (finding,) = [f for f in of(diagnosis, code) if f.complains]
    cause = known_rules(diagnosis)[code].explain(finding, diagnosis.profile)
    return finding.message, cause.because if cause else "", cause.advice if cause else ""

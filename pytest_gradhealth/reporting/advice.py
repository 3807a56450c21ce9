"""What to do about findings: their causes, what to try, and what would let them pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from shlex import quote

from pytest_gradhealth.formatting import View, printable
from pytest_gradhealth.results.diagnosis import Diagnosis, Finding
from pytest_gradhealth.rules import built_in_rules, explanations, known_rules, rule_of
from pytest_gradhealth.rules.rule import Cause

#: Rules whose pages a message names, the worst first.
_MOST_PAGES = 3


def causes(diagnosis: Diagnosis, findings: Sequence[Finding]) -> Iterator[tuple[str, str]]:
    """Yield the cause of each finding and what to try, behind the labels "cause" and "try".

    Causes with the same to try, or a part of it, are told together.
    """
    left = _causes(diagnosis, findings)
    cured = any(treatment.outcome == "cured" for treatment in diagnosis.treatments)
    while left:
        advice = left[0].advice
        same = [cause for cause in left if cause.advice in advice]
        yield from (("cause", cause.because) for cause in same)
        # What was tried says more than what might be, and less than what is certain.
        if not cured or any(cause.certain for cause in same):
            yield "try", advice
        left = [cause for cause in left if cause not in same]


def is_certain(diagnosis: Diagnosis, findings: Sequence[Finding]) -> bool:
    """Whether it is certain for one of the causes what to try."""
    return any(cause.certain for cause in _causes(diagnosis, findings))


def _causes(diagnosis: Diagnosis, findings: Sequence[Finding]) -> list[Cause]:
    """The causes of the findings, each once, but for parts of others."""
    rules, profile = known_rules(diagnosis).values(), diagnosis.profile
    behind = explanations(diagnosis)
    seen = (behind.get(f.code, f) for f in findings if f.seed == profile.seed)
    found = [rule_of(f.code, rules).explain(f, profile) for f in seen]
    every = dict.fromkeys(cause for cause in found if cause is not None)
    return [cause for cause in every if not any(_is_part(cause, other) for other in every)]


def _is_part(cause: Cause, other: Cause) -> bool:
    """Whether another cause tells the same and more."""
    part = cause.because in other.because and cause.advice in other.advice
    return part and cause != other


def acceptance(diagnosis: Diagnosis, findings: Sequence[Finding]) -> str:
    """Return what would let the first failure that has a limit pass, "" where nothing would.

    One that another rule explains is not to be let pass.
    """
    rules, behind = known_rules(diagnosis).values(), explanations(diagnosis)
    own = (f for f in findings if f.severity == "failure" and f.code not in behind)
    failed = (f for f in own if f.limit is not None)
    return next((rule_of(f.code, rules).acceptance(f, diagnosis.limits) for f in failed), "")


def pages(findings: Sequence[Finding], view: View) -> str:
    """Return the command that prints the pages of the rules with these findings, "" for none.

    Those of rules that are registered for a test alone are found by its name.
    """
    built_in = {rule.code for rule in built_in_rules()}
    known = built_in | {*(view.own if view.rerun else ())}
    told = (f.code for f in findings if f.code in known and f.severity != "not judged")
    codes = [*dict.fromkeys(told)][:_MOST_PAGES]
    start = "pytest" if built_in.issuperset(codes) else view.rerun
    return printable(f"{start} --gradhealth-explain {quote(','.join(codes))}") if codes else ""

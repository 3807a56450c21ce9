"""The rules: one file per rule, each a pure function of what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from pytest_gradhealth.results.diagnosis import Diagnosis, Finding
from pytest_gradhealth.rules.rule import Evidence, Rule

__all__ = ["Evidence", "Rule", "built_in_rules"]


@cache
def built_in_rules() -> tuple[Rule, ...]:
    """Return the package's own rules, in the order of their codes: the RULE of each file here."""
    files = [import_module(f"{__name__}.{file.name}") for file in iter_modules(__path__)]
    rules = [file.RULE for file in files if hasattr(file, "RULE")]
    return tuple(sorted(rules, key=lambda rule: rule.code))


def rule_of(code: str, rules: Iterable[Rule]) -> Rule:
    """Return the rule with a code, one that knows nothing where none of them has it."""
    nobody = Rule(code, code, "", "", lambda _: ())
    return next((rule for rule in rules if rule.code == code), nobody)


def known_rules(diagnosis: Diagnosis) -> Mapping[str, Rule]:
    """Return the package's own rules and those that a diagnosis was made with, by code."""
    rules = (*built_in_rules(), *getattr(diagnosis.origin, "rules", ()))
    return {rule.code: rule for rule in rules}


def explanations(diagnosis: Diagnosis) -> Mapping[str, Finding]:
    """What other rules have found that explains the findings of some, by the codes of these."""
    rules = known_rules(diagnosis)
    found = [f for f in diagnosis.findings if f.complains and f.code in rules]
    return {code: f for f in reversed(found) for code in rules[f.code].explains}

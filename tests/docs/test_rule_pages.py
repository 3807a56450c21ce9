"""Every rule brings its page of documentation, and every limit of the table belongs to a rule."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest

from pytest_gradhealth import GradientHealthError
from pytest_gradhealth.config.options import FIXED_LIMITS, OPTIONS
from pytest_gradhealth.plugin.fixture import GradHealth
from pytest_gradhealth.rules import built_in_rules
from pytest_gradhealth.rules.rule import Rule

RULES = built_in_rules()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_page_says_what_why_and_which_settings(rule: Rule) -> None:
    title, *sections = re.findall(r"^#+ (.*)$", rule.page, re.MULTILINE)
    assert title == f"{rule.code} {rule.name}"
    assert sections == [
        "What it does",
        "Why",
        "Example",
        "Settings",
        "When to ignore it",
        *["References"] * ("References" in sections),
    ]
    assert rule.summary[1:] in rule.page
    assert f"# {rule.code}:" not in rule.page, "the title of the file is not said twice"
    for option in rule.options:
        assert f"- `{option.name}`: {option.help}" in rule.page
    assert ("It has no limits to set." in rule.page) == (not rule.options)


def outcome_of(code: str, gradhealth: GradHealth) -> tuple[type[Exception] | None, list[str]]:
    """What the one test of an example fails with, and the codes of all that it is told."""
    scope: dict[str, Any] = {}
    exec(code, scope)
    (test,) = [scope[name] for name in scope if name.startswith("test_")]
    error, message = None, ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            test(gradhealth)
        except GradientHealthError as raised:
            error, message = type(raised), str(raised)
    told = (message.partition("\n\n")[0], *(str(warning.message) for warning in caught))
    return error, [code for text in told for code in re.findall(r"\bGH\d{3}\b", text)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_the_example_of_a_page_fails_and_its_cure_passes(
    rule: Rule, gradhealth: GradHealth
) -> None:
    parts = re.findall(r"^(\w+):\n\n```python\n(.*?)^```", rule.page, re.MULTILINE | re.DOTALL)
    (verb, sick), (passes, cured) = parts
    error = {"Fails": rule.error, "Warns": None}[verb]
    assert outcome_of(sick, gradhealth) == (error, [rule.code])
    assert (passes, *outcome_of(cured, gradhealth)) == ("Passes", None, [])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_the_limits_that_a_rule_reads_are_those_that_it_says(rule: Rule) -> None:
    read = set(re.findall(r'limits(?:\.get\(|\[)"(\w+)"', source_of(rule)))
    read |= set(re.findall(r'"(\w+)" if severity == "failure" else', source_of(rule)))
    read |= set(re.findall(r'severity == "failure" else "(\w+)"', source_of(rule)))
    known = {option.name for option in OPTIONS if option.use == "limit"}
    assert read - {"eps"} - FIXED_LIMITS.keys() <= known
    borrowed = {"min_ratio"} if rule.code == "GH201" else set()  # for what has broken meanwhile
    shared = {"min_ratio", "warn_min_ratio"} if rule.code == "GH102" else set()
    assert (read & known) - borrowed | shared == set(rule.settings)


def test_every_limit_of_the_table_is_read_by_a_rule() -> None:
    limits = {option.name for option in OPTIONS if option.use == "limit"}
    assert limits == {name for rule in RULES for name in rule.settings}


def source_of(rule: Rule) -> str:
    import inspect
    import sys

    return inspect.getsource(sys.modules[rule.check.__module__])


def test_the_codes_are_in_order_and_every_file_is_named_after_its_rule() -> None:
    assert [rule.code for rule in RULES] == sorted(rule.code for rule in RULES)
    for rule in RULES:
        assert rule.check.__module__.rpartition(".")[2] == rule.name.replace("-", "_")

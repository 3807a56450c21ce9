"""Every rule brings its page of documentation, and every limit of the table belongs to a rule."""

from __future__ import annotations

import re

import pytest

from pytest_gradhealth.config.options import FIXED_LIMITS, OPTIONS
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
        *["References"] * ("References" in sections),
        "Settings",
        "Leaving it out",
    ]
    assert rule.summary[1:] in rule.page
    assert rule.page.count(f"{rule.code}:") == 0, "the title of the file is not said twice"
    for option in rule.options:
        assert f"- `{option.name}`: {option.help}" in rule.page
    assert ("It has none." in rule.page) == (not rule.options)


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

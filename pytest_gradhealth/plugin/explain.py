"""The pages of rules in the terminal: what --gradhealth-explain prints."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import pytest

from pytest_gradhealth.config.settings import rule_meant
from pytest_gradhealth.errors import SettingError
from pytest_gradhealth.formatting import columns, encodable, harmless, shown
from pytest_gradhealth.plugin.output import usage_error
from pytest_gradhealth.plugin.registered import registered_rules
from pytest_gradhealth.rules import Rule, built_in_rules
from pytest_gradhealth.rules.page import address_of


def explain(asked: str, config: pytest.Config) -> int:
    """Print the pages of rules, or the list of all; return how pytest is to exit.

    Raises UsageError for what names no rule, and for rules that cannot be used together.
    """
    names = [name.strip() for name in asked.split(",")]
    try:
        rules = registered_rules(config.hook, config)
        known = {name: rule for rule in rules for name in (rule.name.lower(), rule.code.lower())}
        pages = (
            [_list(rules)]
            if asked.strip().lower() == "all"
            else [_page(_named(n, known)) for n in names]
        )
    except SettingError as error:
        raise usage_error(str(error)) from error
    print(encodable(harmless("\n\n".join(pages)), sys.stdout))
    return pytest.ExitCode.OK


def _named(name: str, rules: Mapping[str, Rule]) -> Rule:
    found = rules.get(name.lower())
    if found is None:
        meant = rule_meant(name, {rule.code: rule.name for rule in rules.values()}) or (
            "--gradhealth-explain=all lists them (those of a conftest.py where its folder is named,"
            " too)"
        )
        raise usage_error(f"--gradhealth-explain: no rule is called {shown(name)}; {meant}")
    return found


def _list(rules: Sequence[Rule]) -> str:
    return columns([[r.code, r.name, r.summary] for r in rules], ["code", "name", "rule"], "lll")


def _page(rule: Rule) -> str:
    ours = rule.code in {known.code for known in built_in_rules()}
    return rule.page + (f"\nOn the web: {address_of(rule.code)}\n" if ours else "")

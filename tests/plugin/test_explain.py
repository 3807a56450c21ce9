"""--gradhealth-explain prints the pages of rules and runs no test."""

from __future__ import annotations

import pytest

from pytest_gradhealth.rules import built_in_rules
from pytest_gradhealth.rules.page import HOME
from tests.helpers.projects import folders, run

RULES = built_in_rules()
OWN = """
from pytest_gradhealth import Rule

def pytest_gradhealth_rules(config):
    return [
        Rule("MY101", "large-loss", "the loss starts small", "the loss", lambda _: (), doc="{doc}")
    ]
"""
FAILS = """
import torch

def test_that_would_fail():
    raise AssertionError
"""


def explained(pytester: pytest.Pytester, *arguments: str) -> str:
    result = run(pytester, *arguments)
    assert result.ret == 0, result.stderr.str()
    return result.stdout.str()


@pytest.mark.parametrize("asked", ["GH101", "gh101", "vanishing", " vanishing "])
def test_a_page_is_found_by_code_and_by_name(pytester: pytest.Pytester, asked: str) -> None:
    folders(pytester, test_a=FAILS)
    printed = explained(pytester, "--gradhealth-explain", asked)
    assert printed == f"{RULES[0].page}\nOn the web: {HOME}/rules/GH101.html\n"


def test_several_pages_are_printed_in_the_order_they_are_asked_for(
    pytester: pytest.Pytester,
) -> None:
    printed = explained(pytester, "--gradhealth-explain=GH201, vanishing")
    titles = [line for line in printed.splitlines() if line.startswith("# ")]
    assert titles == ["# GH201 exploding", "# GH101 vanishing"]


def test_all_rules_are_listed(pytester: pytest.Pytester) -> None:
    folders(pytester, conftest=OWN)
    _, *rows = explained(pytester, "--gradhealth-explain=all").splitlines()
    assert [row.split(maxsplit=2) for row in rows] == [
        *([rule.code, rule.name, rule.summary] for rule in RULES),
        ["MY101", "large-loss", "the loss starts small"],
    ]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("vanishin", "no rule is called 'vanishin'; did you mean GH101 (vanishing)?"),
        ("GH1O1", "no rule is called 'GH1O1'; did you mean GH101 (vanishing)?"),
        ("GH999", "no rule is called 'GH999'; --gradhealth-explain=all lists them"),
        (
            "xyz",
            "no rule is called 'xyz'; --gradhealth-explain=all lists them (those of a conftest.py"
            " where its folder is named, too)",
        ),
        ("GH101,", "no rule is called ''; --gradhealth-explain=all lists them"),
        ("all,GH101", "no rule is called 'all'; --gradhealth-explain=all lists them"),
    ],
)
def test_what_is_no_rule_is_said_with_what_may_be_meant(
    pytester: pytest.Pytester, asked: str, said: str
) -> None:
    result = run(pytester, f"--gradhealth-explain={asked}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.stderr.str().startswith(f"ERROR: --gradhealth-explain: {said}")


def test_a_rule_of_a_folder_is_found_where_the_folder_is_named(pytester: pytest.Pytester) -> None:
    folders(pytester, a__conftest=OWN.format(doc="## Why\\n\\nIt is mine."), a__test_a=FAILS)
    assert run(pytester, "--gradhealth-explain=MY101").ret == pytest.ExitCode.USAGE_ERROR
    printed = explained(pytester, "--gradhealth-explain=large-loss", "a")
    assert printed.startswith("# MY101 large-loss\n\nThe loss starts small.\n")
    assert "## Why\n\nIt is mine.\n" in printed
    assert "On the web" not in printed


def test_a_page_of_anyones_does_no_harm(pytester: pytest.Pytester) -> None:
    folders(pytester, conftest=OWN.format(doc="::error::a" + chr(92) + "x1b[2J"))
    printed = explained(pytester, "--gradhealth-explain=MY101")
    assert "\n?:error::a?[2J\n" in printed


def test_rules_that_cannot_be_used_together_are_said(pytester: pytest.Pytester) -> None:
    folders(pytester, conftest=OWN.replace("MY101", "GH101"))
    result = run(pytester, "--gradhealth-explain=all")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "two rules have the code GH101" in result.stderr.str()


def test_a_message_names_the_pages_of_its_rules(pytester: pytest.Pytester) -> None:
    folders(
        pytester,
        conftest=OWN.replace("lambda _: ()", "lambda e: [FAILING(e)]")
        + """
def FAILING(evidence):
    from pytest_gradhealth.results.diagnosis import Finding
    return Finding("MY101", "large-loss", "failure", "(loss)", "too large")
""",
        test_a="""
import torch

def test_it(gradhealth):
    gradhealth.assert_healthy(torch.nn.Linear(3, 3), torch.ones(2, 3))
""",
    )
    printed = run(pytester).stdout.str()
    assert "rule:   pytest test_a.py::test_it --gradhealth-explain MY101\n" in printed
    page = explained(pytester, "test_a.py::test_it", "--gradhealth-explain", "MY101")
    assert page.startswith("# MY101 large-loss\n")

"""Rules of a user's own, through the hook."""

from __future__ import annotations

import pytest

from tests.helpers.projects import folders, rows, run, text_of

pytestmark = pytest.mark.usefixtures("_networks")


RULE = """
from pytest_gradhealth import Rule

def check(evidence):
    if evidence.first.loss > {limit}:
        yield RULE.finding(
            "failure", "(loss)", "the loss starts high", profile=evidence.first
        )

RULE = Rule("{code}", "large-loss", "the loss starts small", "the loss", check)

def pytest_gradhealth_rules(config):
    return {returned}
"""

CHECKS_ALL = """
from networks import cross_entropy, healthy, x, y

def test_a(gradhealth):
    gradhealth.assert_healthy(healthy(), x, y, loss=cross_entropy)
"""


def rule(code: str = "MY101", limit: str = "0", returned: str = "[RULE]") -> str:
    return RULE.format(code=code, limit=limit, returned=returned)


def test_a_rule_of_a_conftest_fires_in_its_own_folder(pytester: pytest.Pytester) -> None:
    folders(pytester, a__conftest=rule(), a__test_in=CHECKS_ALL, b__test_out=CHECKS_ALL)
    result = run(pytester, "--gradhealth-report")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["E *GradientHealthError: the loss starts high [[]MY101[]]"])
    verdicts = {row["test"]: row["verdict"] for row in rows(result)}
    assert verdicts == {"a/test_in.py::test_a": "failure", "b/test_out.py::test_a": "healthy"}


@pytest.mark.parametrize("ignore", ["--gradhealth-ignore=MY101", "--gradhealth-select=GH"])
def test_a_rule_of_ones_own_can_be_left_out(pytester: pytest.Pytester, ignore: str) -> None:
    folders(pytester, conftest=rule(), test_in=CHECKS_ALL)
    run(pytester, ignore).assert_outcomes(passed=1)


def test_rules_of_nested_folders_add_up(pytester: pytest.Pytester) -> None:
    folders(
        pytester,
        conftest=rule("MY101", limit="0"),
        a__conftest=rule("MY102", limit="0"),
        a__test_in=CHECKS_ALL,
    )
    run(pytester).stdout.fnmatch_lines(
        ["*the loss starts high [[]MY101[]]", "*the loss starts high [[]MY102[]]"]
    )


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (
            "['MY101']",
            "pytest_gradhealth_rules returned a str in its list; return pytest_gradhealth.Rule"
            " objects",
        ),
        (
            "'MY101'",
            "pytest_gradhealth_rules returned a str in its list; return pytest_gradhealth.Rule"
            " objects",
        ),
        ("RULE", "pytest_gradhealth_rules returned a"),
        ("7", "pytest_gradhealth_rules returned a"),
    ],
    ids=["list of text", "text", "one rule", "number"],
)
def test_a_hook_that_returns_something_else_is_told(
    pytester: pytest.Pytester, returned: str, message: str
) -> None:
    folders(pytester, conftest=rule(returned=returned), test_in=CHECKS_ALL)
    result = run(pytester)
    result.assert_outcomes(failed=1)
    assert f"SettingError: {message}" in text_of(result)


@pytest.mark.parametrize("returned", ["None", "[]", "(RULE,)", "iter([RULE])"])
def test_a_hook_may_return_nothing_or_any_iterable(
    pytester: pytest.Pytester, returned: str
) -> None:
    folders(pytester, conftest=rule(returned=returned), test_in=CHECKS_ALL)
    fails = "RULE" in returned
    run(pytester).assert_outcomes(failed=int(fails), passed=int(not fails))


def test_two_rules_of_one_code_are_told_apart(pytester: pytest.Pytester) -> None:
    folders(pytester, conftest=rule("GH101"), test_in=CHECKS_ALL)
    result = run(pytester)
    result.assert_outcomes(failed=1)
    names = "vanishing and large-loss", "large-loss and vanishing"
    assert any(
        f"SettingError: two rules have the code GH101 ({pair}); give yours a code of its own"
        in text_of(result)
        for pair in names
    )

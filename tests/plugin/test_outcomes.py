"""How tests ended: from the reports of their phases, of reruns and of subtests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_gradhealth.plugin.outcomes import Outcomes


def report(when: str, outcome: str = "passed", *, xfail: bool = False) -> Any:
    made = SimpleNamespace(
        nodeid="t",
        when=when,
        outcome=outcome,
        failed=outcome == "failed",
        skipped=outcome == "skipped",
    )
    if xfail:
        made.wasxfail = "reason"
    return made


class SubtestReport(SimpleNamespace):
    """As pytest and pytest-subtests name theirs."""


def subtest(outcome: str) -> Any:
    return SubtestReport(**vars(report("call", outcome)))


SETUP, CALL, TEARDOWN = (report(when) for when in ("setup", "call", "teardown"))
FAILED = report("call", "failed")


@pytest.mark.parametrize(
    ("reports", "outcome", "passed"),
    [
        ([], "", False),
        ([SETUP], "passed", False),
        ([SETUP, CALL], "passed", False),
        ([SETUP, CALL, TEARDOWN], "passed", True),
        ([SETUP, TEARDOWN], "passed", False),
        ([SETUP, FAILED, TEARDOWN], "failed", False),
        ([report("setup", "failed"), TEARDOWN], "error", False),
        ([report("setup", "skipped"), TEARDOWN], "skipped", False),
        ([SETUP, CALL, report("teardown", "failed")], "error", False),
        ([SETUP, report("call", "skipped", xfail=True), TEARDOWN], "xfailed", False),
        ([SETUP, report("call", xfail=True), TEARDOWN], "xpassed", False),
        ([SETUP, FAILED, TEARDOWN, SETUP, CALL, TEARDOWN], "passed", True),
        ([SETUP, CALL, TEARDOWN, SETUP], "passed", False),
        ([SETUP, subtest("failed"), CALL, TEARDOWN], "failed", False),
        ([SETUP, subtest("passed"), CALL, TEARDOWN], "passed", True),
        ([SETUP, subtest("skipped"), CALL, TEARDOWN], "passed", True),
    ],
)
def test_reports_make_an_outcome(reports: list[Any], outcome: str, passed: bool) -> None:
    outcomes = Outcomes()
    for one in reports:
        outcomes.note(one)
    assert outcomes.of("t") == outcome
    assert outcomes.passed("t") is passed
    assert not outcomes.passed("another")

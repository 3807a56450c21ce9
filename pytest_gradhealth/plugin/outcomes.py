"""How tests ended, as their reports tell."""

from __future__ import annotations

import pytest

#: What a test has to have come to the end of to have passed, as bits.
_PARTS = {"call": 1, "teardown": 2}


class Outcomes:
    """The outcome of each test; of one that is run again, that of the last run.

    A test is "passed", "failed", "skipped", "xfailed" or "xpassed", or an "error" where setting it
    up or tearing it down failed. Subtests only count where they fail.
    """

    def __init__(self) -> None:
        self._outcomes: dict[str, str] = {}
        # A number each, since there may be many thousand tests.
        self._ended: dict[str, int] = {}

    def note(self, report: pytest.TestReport) -> None:
        """Read what a report says of its test."""
        test, outcome = report.nodeid, str(report.outcome)
        if hasattr(report, "wasxfail"):
            outcome = "xfailed" if report.skipped else "xpassed"
        elif report.failed and report.when != "call":
            outcome = "error"
        if "subtest" in type(report).__name__.lower():
            if report.failed:
                self._outcomes[test] = outcome
            return
        before = 0 if report.when == "setup" else self._ended.get(test, 0)
        self._ended[test] = before | _PARTS.get(str(report.when), 0)
        if report.when == "setup" or outcome != "passed":
            self._outcomes[test] = outcome

    def of(self, test: str) -> str:
        """The outcome so far, "" of a test that has not begun."""
        return self._outcomes.get(test, "")

    def passed(self, test: str) -> bool:
        """Whether a test has run to its end without anything else than passing."""
        return self.of(test) == "passed" and self._ended.get(test) == sum(_PARTS.values())

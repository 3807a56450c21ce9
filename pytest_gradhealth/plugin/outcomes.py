"""How tests ended, as their reports tell."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest


class Outcomes:
    """The outcome of each test; of one that is run again, that of the last run.

    A test is "passed", "failed", "skipped", "xfailed" or "xpassed", or an "error" where setting it
    up or tearing it down failed. Subtests only count where they fail.
    """

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self._outcomes: dict[str, str] = {}
        self._phases: dict[str, set[str]] = defaultdict(set)

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
        if report.when == "setup":
            self.runs[test] += 1
            self._phases[test].clear()
        self._phases[test].add(str(report.when))
        if report.when == "setup" or outcome != "passed":
            self._outcomes[test] = outcome

    def of(self, test: str) -> str:
        """The outcome so far, "" of a test that has not begun."""
        return self._outcomes.get(test, "")

    def passed(self, test: str) -> bool:
        """Whether a test has run to its end without anything else than passing."""
        return self.of(test) == "passed" and self._phases[test] >= {"call", "teardown"}

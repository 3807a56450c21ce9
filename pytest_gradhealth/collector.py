"""The probes of a run, gathered from the test reports, for the report at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from pytest_gradhealth.distributed import reports
from pytest_gradhealth.records import Diagnosis
from pytest_gradhealth.reporting.terminal import report_lines
from pytest_gradhealth.session import CARRIED


@dataclass(frozen=True)
class Entry:
    """One probe in the report: the test that made it, how that test ended, and the diagnosis."""

    test: str
    expected: bool
    diagnosis: Diagnosis


@dataclass(eq=False)
class Collector:
    """The probes of a run, gathered where the reports arrive (the xdist controller, if any)."""

    entries: list[Entry] = field(default_factory=list)
    _expected: set[str] = field(default_factory=set)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Read a test's probes off its last report, and how it ended off the one before."""
        if hasattr(report, "wasxfail"):
            self._expected.add(report.nodeid)
        carried: Sequence[Mapping[str, Any]] = getattr(report, CARRIED, ())
        expected = report.nodeid in self._expected
        self.entries += [
            Entry(report.nodeid, expected, Diagnosis.from_dict(data)) for data in carried
        ]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write the report section."""
        if terminalreporter.config.getoption("collectonly", False) or not reports():
            return
        verbose = terminalreporter.config.getoption("verbose", 0) > 0
        terminalreporter.section("gradient health")
        for text, markup in report_lines(
            self.entries, width=terminalreporter._tw.fullwidth, verbose=verbose
        ):
            terminalreporter.write_line(text, **markup)

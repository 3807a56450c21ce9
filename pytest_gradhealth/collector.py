"""The probes of a run, gathered from the test reports, for the report at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from pytest_gradhealth.records import Diagnosis
from pytest_gradhealth.reporting.terminal import report_lines
from pytest_gradhealth.session import CARRIED


@dataclass(frozen=True)
class Entry:
    """One probe in the report: the test that made it, how that test ended, and the diagnosis."""

    test: str
    expected: bool
    diagnosis: Diagnosis


@dataclass
class Collector:
    """The probes of a run, gathered where the reports arrive (the xdist controller, if any)."""

    entries: list[Entry] = field(default_factory=list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Read the probes off a test report."""
        carried: Sequence[Mapping[str, Any]] = getattr(report, CARRIED, ())
        if carried:
            expected = hasattr(report, "wasxfail")
            self.entries += [
                Entry(report.nodeid, expected, Diagnosis.from_dict(data)) for data in carried
            ]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write the report section."""
        verbose = terminalreporter.config.getoption("verbose") > 0
        terminalreporter.section("gradient health")
        for text, markup in report_lines(
            self.entries, width=terminalreporter._tw.fullwidth, verbose=verbose
        ):
            terminalreporter.write_line(text, **markup)

"""One line at the end on the tests that pass with warnings."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import pytest

from pytest_gradhealth.errors import GradientHealthWarning
from pytest_gradhealth.plugin.options import DOUBTS, shows_report
from pytest_gradhealth.plugin.output import write_line
from pytest_gradhealth.plugin.transport import WARNED


class Doubts:
    """Counts what rules have warned of, in this process and in those of pytest-xdist."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self._codes: set[str] = set()
        self._tests: set[str] = set()

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, nodeid: str
    ) -> None:
        """Note the rule and the test of a warning of this package."""
        if issubclass(warning_message.category, GradientHealthWarning):
            self._note(nodeid, [str(warning_message.message).partition(" ")[0].rstrip(":")])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what a test was warned of where pytest records no warnings (-p no:warnings)."""
        self._note(report.nodeid, getattr(report, WARNED, ()))

    def _note(self, nodeid: str, codes: Iterable[str]) -> None:
        for code in codes:
            self._codes.add(code)
            self._tests.add(nodeid)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say how many tests there are, unless the report says so."""
        if self._tests and not shows_report(self.config):
            write_line(terminalreporter, self._line(), yellow=True)

    def _line(self) -> str:
        from pytest_gradhealth.formatting import count

        codes = sorted(self._codes)
        return (
            f"{DOUBTS['warning']} {count(len(self._tests), 'test')} ({', '.join(codes)});"
            f" --gradhealth-report shows where, --gradhealth-explain={','.join(codes)} why"
        )

"""The probes of a run, gathered from the test reports, for the reports at its end."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple, cast

import pytest

from pytest_gradhealth.baseline.check import Check
from pytest_gradhealth.distributed.rank import rank
from pytest_gradhealth.plugin.baseline_session import Keeper
from pytest_gradhealth.plugin.options import annotates, run_options, shows_report
from pytest_gradhealth.plugin.output import write_command, write_line
from pytest_gradhealth.plugin.transport import CARRIED, MESSAGE, spoken, unpacked
from pytest_gradhealth.reporting.files import render_file
from pytest_gradhealth.reporting.run import Invocation, Probe, Run, TestOutcome
from pytest_gradhealth.reporting.terminal import report_lines
from pytest_gradhealth.results.diagnosis import Diagnosis
from pytest_gradhealth.results.serialization import from_plain


class _Kept(NamedTuple):
    """What is kept of a test until the run ends."""

    test: str
    outcome: str
    message: str
    file: str
    line: int | None
    carried: str

    def probes(self) -> Iterator[Probe]:
        """The probes that the test has made."""
        carried = unpacked(self.carried)
        # What failed one of several probes is not said of the others.
        own = any(data["message"] for data in carried)
        for data in carried:
            yield Probe(
                self.test,
                cast("TestOutcome", self.outcome),
                replace(Diagnosis.from_dict(data["diagnosis"]), origin=spoken(data["rules"])),
                tuple(from_plain(Check, check) for check in data["checks"]),
                data["message"] if own else self.message,
                self.file,
                self.line,
                data["of_fixture"],
            )


class Collector:
    """The probes of a run, gathered where the reports arrive (the xdist controller, if any)."""

    def __init__(self, config: pytest.Config, keeper: Keeper) -> None:
        self.config = config
        self._keeper = keeper
        self._kept: dict[str, _Kept] = {}
        self._messages: dict[str, str] = {}
        self._written: list[str] = []
        self._ran = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Read a test's probes off its last report, and what failed it off those before."""
        self._ran = True
        test, message = report.nodeid, getattr(report, MESSAGE, "")
        if report.when == "setup":
            self._kept.pop(test, None)  # it is run again
        if report.when == "setup" or message:
            self._messages[test] = message
        carried: str = getattr(report, CARRIED, "")
        if carried:
            file, line, _ = report.location
            place = self._file(file), None if line is None else line + 1
            outcome = self._keeper.outcomes.of(test)
            self._kept[test] = _Kept(test, outcome, self._messages.get(test, ""), *place, carried)
        if report.when == "teardown":
            self._messages.pop(test, None)

    @cached_property
    def probes(self) -> Sequence[Probe]:
        """All probes, read once the run is over: until then a text is kept of each."""
        return [probe for kept in self._kept.values() for probe in kept.probes()]

    @cached_property
    def _environment(self) -> dict[str, str]:
        first = next(iter(self._kept.values()), None)
        return {} if first is None else dict(unpacked(first.carried)[0]["environment"])

    @cached_property
    def _invocation(self) -> Invocation:
        from pytest_gradhealth.plugin.invocation import invocation

        return invocation(self.config)

    def run(self) -> Run:
        """Everything that was gathered."""
        return Run(
            tuple(self.probes),
            self._environment,
            tuple(self._keeper.notes),
            invocation=self._invocation,
        )

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the reports that are files, in the first process of a distributed run alone.

        One that cannot be written fails the run. A run in which no test ran has none: it would
        take the place of an earlier one.
        """
        if rank() or self.config.getoption("collectonly", False):
            return
        for kind, path in run_options(self.config).files.items():
            line = f"gradient health as {kind}: {_shown(path, self.config)}"
            if not self._ran:
                if path.is_file():
                    self._written.append(f"{line} stays as it was, since no test ran")
                continue
            try:
                render_file(kind, self.run(), path)
            except OSError as error:
                line += f" was not written ({error})"
                session.exitstatus = exitstatus or pytest.ExitCode.TESTS_FAILED
            self._written.append(line)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write the report section, in the first process of a distributed run alone."""
        if rank() or self.config.getoption("collectonly", False):
            return
        if shows_report(self.config):
            verbose = self.config.getoption("verbose", 0) > 0
            terminalreporter.section("gradient health")
            width = terminalreporter._tw.fullwidth
            told = self.config.getoption("tbstyle", "auto") != "no"
            lines = report_lines(self.probes, width=width, verbose=verbose, told=told)
            for text, markup in lines:
                write_line(terminalreporter, text, **markup)
        if annotates():
            from pytest_gradhealth.reporting.github import workflow_commands

            for command in workflow_commands(self.run()):
                write_command(terminalreporter, command)
        for line in self._written:
            write_line(terminalreporter, line)

    def _file(self, file: str) -> str:
        """The file of a test from the top of the checkout, where GitHub looks for it."""
        path, top = self.config.rootpath / file, os.environ.get("GITHUB_WORKSPACE", "")
        if top and path.is_relative_to(top):
            file = os.path.relpath(path, top)
        return file.replace(os.sep, "/")


def _shown(path: os.PathLike[str], config: pytest.Config) -> str:
    shown = os.path.relpath(path, config.invocation_params.dir)
    return (os.fspath(path) if shown.startswith("..") else shown).replace(os.sep, "/")

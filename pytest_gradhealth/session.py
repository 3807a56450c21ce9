"""What a pytest run knows: the context of each test, and the probes that the report shows.

Probes ride on the test reports as plain builtins, so that they arrive from pytest-xdist workers as
they do without it.
"""

from __future__ import annotations

import os
import shlex
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_gradhealth.errors import SettingError
from pytest_gradhealth.options import OPTIONS, Settings

if TYPE_CHECKING:
    from pytest_gradhealth.probes import ProbeCache
    from pytest_gradhealth.records import Diagnosis
    from pytest_gradhealth.rules import Rule

#: Attribute of a test report that carries the probes of its phase.
CARRIED = "gradhealth_probes"
BASE_SETTINGS = pytest.StashKey[Settings]()
CONTEXT = pytest.StashKey["TestContext"]()


def base_settings(config: pytest.Config) -> Settings:
    """Return what command line and ini file say; raises UsageError that names the source."""
    settings = config.stash.get(BASE_SETTINGS, None)
    if settings is None:
        try:
            settings = Settings().merged(*_ini_values(config)).merged(*_cli_values(config))
        except SettingError as error:
            raise pytest.UsageError(str(error)) from error
        config.stash[BASE_SETTINGS] = settings
    return settings


def _cli_values(config: pytest.Config) -> tuple[dict[str, Any], dict[str, str]]:
    values = {option.name: config.getoption(f"gradhealth_{option.name}") for option in OPTIONS}
    return values, {option.name: option.flag for option in OPTIONS}


def _ini_values(config: pytest.Config) -> tuple[dict[str, Any], dict[str, str]]:
    file = config.inipath.name if config.inipath else "the ini file"
    values, sources = {}, {}
    for option in OPTIONS:
        sources[option.name] = f"{option.key} in {file}"
        try:
            value = config.getini(option.key)
        except (TypeError, ValueError, pytest.UsageError) as error:
            where = sources[option.name]
            raise SettingError(f"{where}: {option.name} is not {option.expects}") from error
        values[option.name] = None if value in ("", []) else value
    return values, sources


@dataclass(eq=False)
class TestContext:
    """What one test lends to the assertions in it."""

    __test__ = False

    item: pytest.Item
    recorded: list[Diagnosis] = field(default_factory=list)

    @cached_property
    def settings(self) -> Settings:
        """Marker, command line and ini file, merged; nearer markers win key by key."""
        settings = base_settings(self.item.config)
        for mark in reversed(list(self.item.iter_markers("gradhealth"))):
            where = f"@pytest.mark.gradhealth on {self.item.name}"
            if mark.args:
                raise SettingError(
                    f"{where}: takes keywords only, for example min_ratio=1e-4; got {mark.args!r}"
                )
            settings = settings.merged(mark.kwargs, where)
        return settings

    @cached_property
    def rules(self) -> Sequence[Rule]:
        """The rules of every hook that applies to this test, by code."""
        from pytest_gradhealth.rules import Rule

        found: dict[str, Rule] = {}
        for returned in self.item.ihook.pytest_gradhealth_rules(config=self.item.config):
            for rule in returned:
                if not isinstance(rule, Rule):
                    raise SettingError(
                        f"pytest_gradhealth_rules returned a {type(rule).__name__} in its list;"
                        " return pytest_gradhealth.Rule objects"
                    )
                if found.setdefault(rule.code, rule) is not rule:
                    raise SettingError(
                        f"two rules have the code {rule.code} ({found[rule.code].name} and"
                        f" {rule.name}); give yours a code of its own"
                    )
        return tuple(found[code] for code in sorted(found))

    @cached_property
    def probes(self) -> ProbeCache:
        """The probes of this test so far."""
        from pytest_gradhealth.probes import ProbeCache

        return ProbeCache()

    @property
    def verbose(self) -> bool:
        """Whether messages show all layers."""
        return bool(self.item.config.getoption("verbose") > 0)

    @property
    def rerun(self) -> str:
        """The command that runs this test alone, from where pytest was started."""
        start = self.item.config.invocation_params.dir
        path = os.path.relpath(self.item.path, start)
        _, separator, name = self.item.nodeid.partition("::")
        return f"pytest {shlex.quote(Path(path).as_posix() + separator + name)}"

    @property
    def base_seed(self) -> int:
        """The first seed: the same for a test in any order and any process."""
        return zlib.crc32(self.item.nodeid.encode()) % 100_000

    def begin(self) -> None:
        """Skip the test when checks are switched off."""
        if self.item.config.getoption("gradhealth_off"):
            pytest.skip("gradient checks are switched off (--no-gradhealth)")

    def record(self, diagnosis: Diagnosis) -> None:
        """Take a diagnosis into the report, in place of an earlier one of the same probe."""
        for index, known in enumerate(self.recorded):
            if known.profiles is diagnosis.profiles:
                self.recorded[index] = diagnosis
                return
        self.recorded.append(diagnosis)

    def hand_over(self, report: pytest.TestReport) -> None:
        """Put what was recorded since the last phase on a test report."""
        if self.recorded:
            setattr(report, CARRIED, [diagnosis.to_dict() for diagnosis in self.recorded])
            self.recorded.clear()


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
            from pytest_gradhealth.records import Diagnosis

            expected = hasattr(report, "wasxfail")
            self.entries += [
                Entry(report.nodeid, expected, Diagnosis.from_dict(data)) for data in carried
            ]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write the report section."""
        from pytest_gradhealth.reporting.terminal import report_lines

        verbose = terminalreporter.config.getoption("verbose") > 0
        terminalreporter.section("gradient health")
        for text, markup in report_lines(
            self.entries, width=terminalreporter._tw.fullwidth, verbose=verbose
        ):
            terminalreporter.write_line(text, **markup)

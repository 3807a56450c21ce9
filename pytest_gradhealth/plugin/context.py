"""What a test lends to the assertions in it."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import pytest

from pytest_gradhealth.config.options import BY_NAME, OPTIONS, Option
from pytest_gradhealth.plugin import output
from pytest_gradhealth.plugin.options import (
    base_settings,
    from_command_line,
    run_options,
    wants_probes,
)

if TYPE_CHECKING:
    from pytest_gradhealth.assertions.warned import Heard
    from pytest_gradhealth.baseline.check import Check
    from pytest_gradhealth.config.settings import Settings
    from pytest_gradhealth.errors import GradientHealthError
    from pytest_gradhealth.formatting import View
    from pytest_gradhealth.plugin.transport import Recorded
    from pytest_gradhealth.probing.cache import ProbeCache
    from pytest_gradhealth.remedies import Remedy
    from pytest_gradhealth.results.diagnosis import Diagnosis
    from pytest_gradhealth.rules import Rule

CONTEXT = pytest.StashKey["TestContext"]()
#: Settings of a test that stands in no file, and where they do; the command that runs it alone.
LISTED = pytest.StashKey[tuple[Mapping[str, object], str]]()
RERUN = pytest.StashKey[str]()
#: How many times each test was begun, by its name: some are run again.
_RUNS = pytest.StashKey[Counter[str]]()


def _nodeid(item: pytest.Item) -> str:
    """The node id of a test, without the group that pytest-xdist adds before pytest 9."""
    mark = item.get_closest_marker("xdist_group")
    if mark is None:
        return item.nodeid
    group = mark.kwargs.get("name", mark.args[0] if mark.args else "default")
    return item.nodeid.removesuffix(f"@{group}")


def _shorten(report: pytest.TestReport, item: pytest.Item, *, ours: bool) -> None:
    """Leave the headline for the short summary, where pytest writes all of a message in CI.

    What fails a test that has come to its end was raised in the plugin, and is of the test.
    """
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is None or not (ours or crash.path == output.__file__):
        return
    crash.message = crash.message.partition("\n")[0]
    if crash.path == output.__file__:
        crash.path, crash.lineno = str(item.path), (item.location[1] or 0) + 1


class TestContext:
    """What one test lends to the assertions in it."""

    __test__ = False

    def __init__(self, item: pytest.Item) -> None:
        self.item = item
        self._runs = item.session.stash.setdefault(_RUNS, Counter())
        self.part = (self._runs[self.nodeid], 0)
        self.recorded: list[Recorded] = []
        self.failed_for = ""

    @property
    def nodeid(self) -> str:
        """The node id of the test."""
        return _nodeid(self.item)

    def start(self) -> None:
        """Keep nothing of a process group that the teardown before a rerun has ended."""
        if "torch.distributed" in sys.modules:
            from pytest_gradhealth.distributed.attendance import forget

            forget()

    def move_on(self) -> None:
        """Come to the next part of the test: its teardown, or a body that is run again."""
        vars(self).pop("heard", None)
        run, part = self.part
        self._come_to((run, part + 1))

    def end(self, *, last: bool) -> None:
        """Leave the test, which may be begun again unless it is the `last`."""
        self._runs[self.nodeid] += 1
        self._come_to((self._runs[self.nodeid], 0), last=last)

    def _come_to(self, part: tuple[int, int], *, last: bool = False) -> None:
        """Let no other process wait for this one in the parts before."""
        if "torch.distributed" not in sys.modules:
            self.part = part
            return
        from pytest_gradhealth.distributed.attendance import tell
        from pytest_gradhealth.distributed.team import forget_exchanges

        forget_exchanges(self)
        self.part = part
        tell(self, last=last)

    @property
    def tests(self) -> Sequence[str]:
        """The node ids of all tests of the session."""
        return [_nodeid(item) for item in self.item.session.items]

    @property
    def name(self) -> str:
        """The name of the test in its module: "TestNet::test_gradients[small]"."""
        return self.nodeid.partition("::")[2] or self.item.name

    @cached_property
    def settings(self) -> Settings:
        """Marker, command line and ini file, merged; nearer markers win key by key.

        Raises SettingError for what a marker cannot say.
        """
        from pytest_gradhealth.errors import SettingError

        settings = base_settings(self.item.config)
        listed, place = self.item.stash.get(LISTED, (None, ""))
        for mark in reversed(list(self.item.iter_markers("gradhealth"))):
            where = f"@pytest.mark.gradhealth on {self.item.name}"
            where = place if mark.kwargs == listed else where
            if mark.args:
                raise SettingError(
                    f"{where}: takes keywords only, for example min_ratio=1e-4; got {mark.args!r}"
                )
            settings = settings.merged(mark.kwargs, where, self._options(mark.kwargs))
        return settings

    def _options(self, names: Iterable[str]) -> Sequence[Option]:
        """The settings there are, with those of rules where a name is none of the package's own."""
        if BY_NAME.keys() >= set(names):
            return OPTIONS
        from pytest_gradhealth.rules.rule import own_settings

        return (*OPTIONS, *own_settings(self.rules))

    @cached_property
    def rules(self) -> Sequence[Rule]:
        """The rules of every hook that applies to this test, by code."""
        from pytest_gradhealth.plugin.registered import registered_rules

        return registered_rules(self.item.ihook, self.item.config)

    @cached_property
    def remedies(self) -> Sequence[Remedy]:
        """The remedies of every hook that applies to this test, the package's own first."""
        from pytest_gradhealth.plugin.registered import registered_remedies

        return registered_remedies(self.item.ihook, self.item.config)

    @cached_property
    def probes(self) -> ProbeCache:
        """The probes of this test so far."""
        from pytest_gradhealth.probing.cache import ProbeCache

        return ProbeCache()

    @cached_property
    def heard(self) -> Heard:
        """What this part of the test was warned of."""
        from pytest_gradhealth.assertions.warned import Heard

        return Heard()

    def warn_of_unjudged(self) -> None:
        """Warn of what the test has probed and did nothing with."""
        if "heard" in vars(self):
            from pytest_gradhealth.assertions.warned import warn_of_unjudged

            warn_of_unjudged(self.heard, self.settings)

    def note_warnings(self, report: pytest.TestReport) -> None:
        """Put on a report what rules have warned of, where pytest records no warnings."""
        codes = self.heard.codes if "heard" in vars(self) else set()
        if codes and not self.item.config.pluginmanager.hasplugin("warnings"):
            from pytest_gradhealth.plugin.transport import WARNED

            setattr(report, WARNED, sorted(codes))

    @property
    def view(self) -> View:
        """How messages are drawn, with the command that runs this test alone."""
        from pytest_gradhealth.formatting import View
        from pytest_gradhealth.rules import built_in_rules

        known = {rule.code for rule in built_in_rules()}
        own = tuple(rule.code for rule in self.rules if rule.code not in known)
        return View(self.item.config.getoption("verbose", 0) > 0, rerun=self._rerun, own=own)

    @property
    def _rerun(self) -> str:
        """The command that runs this test alone, from where pytest was started."""
        import shlex

        if RERUN in self.item.stash:
            return self.item.stash[RERUN] + from_command_line(self.item.config)
        path = os.path.relpath(self.item.path, self.item.config.invocation_params.dir)
        _, separator, name = self.nodeid.partition("::")
        test = path.replace(os.sep, "/") + separator + name
        return f"pytest {shlex.quote(test)}{from_command_line(self.item.config)}"

    @property
    def base_seed(self) -> int:
        """The first seed: the same for a test in any order, any process and from any folder."""
        import zlib

        name = f"{self.item.path.name}::{self.name}"
        return zlib.crc32(name.encode("utf-8", "surrogatepass")) % 100_000

    def begin(self) -> None:
        """Skip the test when checks are switched off."""
        if self.item.config.getoption("gradhealth_off"):
            pytest.skip("gradient checks are switched off (--no-gradhealth)")

    def record(self, diagnosis: Diagnosis) -> None:
        """Take a diagnosis into the report, in place of an earlier one of the same probe."""
        self._record_of(diagnosis).diagnosis = diagnosis

    def compare_with_baseline(
        self, diagnosis: Diagnosis, settings: Settings, name: str
    ) -> tuple[type[GradientHealthError], str] | None:
        """Compare a diagnosis with the test's baseline; return what that fails with, if it does.

        Raises ProbeError for a second check of one name, and for a file that cannot be read.
        """
        from pytest_gradhealth.errors import MissingBaselineError, RegressionError
        from pytest_gradhealth.plugin.baseline_gate import check_baseline, failure

        check = check_baseline(self, diagnosis, settings, name)
        text = failure(self, check, diagnosis)
        if not text:
            return None
        return (MissingBaselineError if check.status == "missing" else RegressionError), text

    def stop_run(self, reason: str) -> None:
        """Let the run end with this test."""
        from pytest_gradhealth.formatting import harmless

        self.item.session.shouldfail = harmless(reason)

    def keep(self, check: Check, diagnosis: Diagnosis) -> None:
        """Take a check of a diagnosis into the report."""
        self._record_of(diagnosis).checks.append(check)

    @property
    def keys(self) -> set[str]:
        """The keys of the checks so far."""
        return {check.key for record in self.recorded for check in record.checks}

    def properties(self) -> list[tuple[str, object]]:
        """What the JUnit file says of the probes of the test."""
        from pytest_gradhealth.reporting.junit import properties

        return [p for record in self.recorded for p in properties(record.diagnosis, record.checks)]

    def note_failure(self, report: pytest.TestReport, error: BaseException) -> None:
        """Put on a report what a check of this package has failed the test with."""
        from pytest_gradhealth.errors import GradientHealthError, ProbeError
        from pytest_gradhealth.formatting import harmless

        ours = isinstance(error, GradientHealthError)
        _shorten(report, self.item, ours=ours or isinstance(error, ProbeError))
        text = harmless(str(error) if ours else self.failed_for)
        if text and wants_probes(self.item.config):
            from pytest_gradhealth.plugin.transport import MESSAGE

            setattr(report, MESSAGE, text)
            diagnosis = getattr(error, "diagnosis", None)
            for record in self.recorded:
                if diagnosis is not None and record.diagnosis.profiles is diagnosis.profiles:
                    record.message = text
        self.failed_for = ""

    def hand_over(self, report: pytest.TestReport) -> None:
        """Put what was recorded on the test's last report; nothing of it is left for a rerun.

        pytest keeps its reports until the run ends: nothing is on them that nobody will read.
        """
        if not self.recorded:
            return
        from pytest_gradhealth.plugin import transport

        config = self.item.config
        if any(not record.checks and not record.of_fixture for record in self.recorded):
            setattr(report, transport.UNCHECKED, True)
        if run_options(config).fatal_doubts or any(record.checks for record in self.recorded):
            concluded = map(transport.concluded, self.recorded)
            setattr(report, transport.CONCLUDED, transport.packed(concluded))
        if wants_probes(config):
            carried = map(transport.carried, self.recorded)
            setattr(report, transport.CARRIED, transport.packed(carried))
        self.recorded.clear()

    def _record_of(self, diagnosis: Diagnosis) -> Recorded:
        from pytest_gradhealth.plugin.transport import Recorded

        for record in self.recorded:
            if record.diagnosis.profiles is diagnosis.profiles:
                return record
        self.recorded.append(Recorded(diagnosis))
        return self.recorded[-1]

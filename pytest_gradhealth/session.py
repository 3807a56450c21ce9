"""What a pytest run knows: the context of each test, and the probes that the report shows.

Probes ride on the test reports as plain builtins, so that they arrive from pytest-xdist workers as
they do without it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from pytest_gradhealth.options import OPTIONS
from pytest_gradhealth.run_options import from_command_line

if TYPE_CHECKING:
    from pytest_gradhealth.baseline.check import Check
    from pytest_gradhealth.findings import Diagnosis
    from pytest_gradhealth.probes import ProbeCache
    from pytest_gradhealth.remedies import Remedy
    from pytest_gradhealth.rules import Rule
    from pytest_gradhealth.settings import Settings

T = TypeVar("T")
#: Attribute of a test report that carries the probes of its phase.
CARRIED = "gradhealth_probes"
#: Attribute of the report of a test that has probed what it did not compare with baselines.
UNCHECKED = "gradhealth_unchecked"
#: Attribute of a test report that says what a check has failed the test with.
MESSAGE = "gradhealth_message"
CONTEXT = pytest.StashKey["TestContext"]()
#: Whether tests that were collected are not run.
LEFT_OUT = pytest.StashKey[bool]()


class Recorded:
    """A probe of a test and the checks of it against baselines.

    What fixtures probe belongs to whichever test comes first, and is compared with nothing.
    """

    def __init__(self, diagnosis: Diagnosis) -> None:
        self.diagnosis = diagnosis
        self.checks: list[Check] = []
        self.of_fixture = True
        self.message = ""


#: Tests are numbered as this process comes to them.
_numbers = itertools.count(1)
BASE_SETTINGS = pytest.StashKey["Settings"]()


def base_settings(config: pytest.Config) -> Settings:
    """Return what command line and ini file say; raises UsageError that names the source."""
    from pytest_gradhealth.errors import SettingError
    from pytest_gradhealth.settings import Settings

    settings = config.stash.get(BASE_SETTINGS, None)
    if settings is None:
        try:
            from_ini = Settings().merged(*ini_values(config))
            settings = from_ini.merged(*cli_values(config))
        except SettingError as error:
            raise pytest.UsageError(str(error)) from error
        config.stash[BASE_SETTINGS] = settings
    return settings


def cli_values(config: pytest.Config) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings given on the command line, and the options that they came from."""
    values = {option.name: config.getoption(option.key) for option in OPTIONS}
    given = {name: value for name, value in values.items() if value is not None}
    return given, {option.name: option.flag for option in OPTIONS}


def ini_values(config: pytest.Config) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings given in the ini file, and the keys that they came from."""
    file = config.inipath.name if config.inipath else "the ini file"
    given, sources = {}, {}
    for option in OPTIONS:
        sources[option.name] = f"{option.key} in {file}"
        try:
            value = config.getini(option.key)
        except (TypeError, ValueError, pytest.UsageError) as error:
            where = sources[option.name]
            raise pytest.UsageError(
                f"{where}: {option.name} is not {option.expects} ({error})"
            ) from error
        if value not in (None, "", []):
            given[option.name] = value
    return given, sources


def carried(record: Recorded) -> dict[str, Any]:
    """A probe as plain builtins, with the environment of the process that made it."""
    from pytest_gradhealth.environment import environment
    from pytest_gradhealth.plain import to_plain

    return {
        "diagnosis": record.diagnosis.to_dict(),
        "checks": to_plain(record.checks),
        "of_fixture": record.of_fixture,
        "message": record.message,
        "environment": environment(),
    }


def nodeid_of(item: pytest.Item) -> str:
    """The node id of a test, without the group that pytest-xdist adds to it before pytest 9."""
    mark = item.get_closest_marker("xdist_group")
    if mark is None:
        return item.nodeid
    group = mark.kwargs.get("name", mark.args[0] if mark.args else "default")
    return item.nodeid.removesuffix(f"@{group}")


def name_of(item: pytest.Item) -> str:
    """The name of a test in its module: "TestNet::test_gradients[small]"."""
    return nodeid_of(item).partition("::")[2] or item.name


class TestContext:
    """What one test lends to the assertions in it."""

    __test__ = False

    def __init__(self, item: pytest.Item) -> None:
        self.item = item
        self.number = next(_numbers)
        self.recorded: list[Recorded] = []
        self.failed_for = ""

    @cached_property
    def settings(self) -> Settings:
        """Marker, command line and ini file, merged; nearer markers win key by key.

        Raises SettingError for what a marker cannot say.
        """
        from pytest_gradhealth.errors import SettingError

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
        from pytest_gradhealth.errors import SettingError
        from pytest_gradhealth.rules import Rule

        found: dict[str, Rule] = {}
        for rule in self._hooked("pytest_gradhealth_rules", Rule):
            if found.setdefault(rule.code, rule) is not rule:
                raise SettingError(
                    f"two rules have the code {rule.code} ({found[rule.code].name} and"
                    f" {rule.name}); give yours a code of its own"
                )
        return tuple(found[code] for code in sorted(found))

    @cached_property
    def remedies(self) -> Sequence[Remedy]:
        """The remedies of every hook that applies to this test, the package's own first."""
        from pytest_gradhealth.remedies import Remedy, built_in_remedies

        own = built_in_remedies()
        found = list(self._hooked("pytest_gradhealth_remedies", Remedy))
        return (*own, *(remedy for remedy in found if remedy not in own))

    def _hooked(self, hook: str, kind: type[T]) -> Iterator[T]:
        """What the implementations of a hook return; SettingError for what they may not."""
        from pytest_gradhealth.errors import SettingError

        name = f"pytest_gradhealth.{kind.__name__}"
        for returned in getattr(self.item.ihook, hook)(config=self.item.config):
            if not isinstance(returned, Iterable):
                raise SettingError(
                    f"{hook} returned a {type(returned).__name__}; return a list of {name} objects"
                )
            for item in returned:
                if not isinstance(item, kind):
                    raise SettingError(
                        f"{hook} returned a {type(item).__name__} in its list; return {name}"
                        " objects"
                    )
                yield item

    @cached_property
    def probes(self) -> ProbeCache:
        """The probes of this test so far."""
        from pytest_gradhealth.probes import ProbeCache

        return ProbeCache()

    @property
    def verbose(self) -> bool:
        """Whether messages show all layers."""
        return bool(self.item.config.getoption("verbose", 0) > 0)

    @property
    def rerun(self) -> str:
        """The command that runs this test alone, from where pytest was started."""
        import shlex

        path = os.path.relpath(self.item.path, self.item.config.invocation_params.dir)
        _, separator, name = nodeid_of(self.item).partition("::")
        test = path.replace(os.sep, "/") + separator + name
        return f"pytest {shlex.quote(test)}{from_command_line(self.item.config)}"

    @property
    def base_seed(self) -> int:
        """The first seed: the same for a test in any order, any process and from any folder."""
        import zlib

        name = f"{self.item.path.name}::{name_of(self.item)}"
        return zlib.crc32(name.encode("utf-8", "surrogatepass")) % 100_000

    def begin(self) -> None:
        """Skip the test when checks are switched off."""
        if self.item.config.getoption("gradhealth_off"):
            pytest.skip("gradient checks are switched off (--no-gradhealth)")

    def record(self, diagnosis: Diagnosis) -> None:
        """Take a diagnosis into the report, in place of an earlier one of the same probe."""
        self._record_of(diagnosis).diagnosis = diagnosis

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
        from pytest_gradhealth.errors import GradientHealthError

        text = str(error) if isinstance(error, GradientHealthError) else self.failed_for
        text = text.encode("utf-8", "replace").decode()
        if text:
            setattr(report, MESSAGE, text)
            diagnosis = getattr(error, "diagnosis", None)
            for record in self.recorded:
                if diagnosis is not None and record.diagnosis.profiles is diagnosis.profiles:
                    record.message = text
        self.failed_for = ""

    def hand_over(self, report: pytest.TestReport, *, everything: bool) -> None:
        """Put what was recorded on the test's last report; nothing of it is left for a rerun.

        If not everything is wanted, only what was checked against baselines and what warns.
        """
        if any(not record.checks and not record.of_fixture for record in self.recorded):
            setattr(report, UNCHECKED, True)
        records = [r for r in self.recorded if everything or r.checks]
        if records:
            setattr(report, CARRIED, [carried(record) for record in records])
        self.recorded.clear()

    def _record_of(self, diagnosis: Diagnosis) -> Recorded:
        for record in self.recorded:
            if record.diagnosis.profiles is diagnosis.profiles:
                return record
        self.recorded.append(Recorded(diagnosis))
        return self.recorded[-1]

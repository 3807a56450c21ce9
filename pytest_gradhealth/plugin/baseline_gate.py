"""Baselines in a test: which probe is compared with what, and the words when it is worse."""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_gradhealth.config.options import BY_NAME
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.plugin.options import run_options
from pytest_gradhealth.plugin.output import usage_error

if TYPE_CHECKING:
    from pytest_gradhealth.baseline.check import Check
    from pytest_gradhealth.baseline.entry import Entry, Use
    from pytest_gradhealth.config.settings import Settings
    from pytest_gradhealth.plugin.context import TestContext
    from pytest_gradhealth.results.diagnosis import Diagnosis
    from pytest_gradhealth.results.profile import GradientProfile

#: Entries by file, read once in a process: nothing is written before the run is over.
_KEPT = pytest.StashKey[dict[Path, Mapping[str, "Entry"]]]()


def check_baseline(
    context: TestContext, diagnosis: Diagnosis, settings: Settings, name: str = ""
) -> Check:
    """Compare a diagnosis with the baseline of a test, under its name and the one of the check.

    Raises ProbeError for a second check of one name, and for a file that cannot be read.
    """
    key = context.name + (f" ({name})" if name else "")
    if key in context.keys:
        raise ProbeError(
            f"two checks of this test have the key {key!r} in its baseline; give each a name of its"
            " own: assert_matches_baseline(..., name='decoder')"
        )
    return _against_baseline(context, diagnosis, settings, key)


def compare_all(context: TestContext) -> Iterator[str]:
    """Compare what a test has probed, as far as it has not been yet; yield what fails it.

    With `baseline` on, with the test's baselines; with another run's report, with what that says.
    """
    compared = run_options(context.item.config).compare
    own = [record for record in context.recorded if not record.of_fixture]
    for place, record in enumerate(own):
        number = f"#{place + 1}" if place else ""
        settings = getattr(record.diagnosis.origin, "settings", context.settings)
        if settings.baseline and not record.checks:
            key = _free(context, context.name, place)
            check = _against_baseline(context, record.diagnosis, settings, key)
            yield failure(context, check, record.diagnosis)
        if compared is not None:
            key = context.nodeid + number
            check = _checked(context, record.diagnosis, settings, compared, key)
            yield failure(context, check, record.diagnosis, of_run=True)


def _free(context: TestContext, name: str, place: int) -> str:
    """The key of the probe at a place in a test, or of a later one if a check has that already."""
    numbers = itertools.count(place + 1)
    keys = (name + (f"#{number}" if number > 1 else "") for number in numbers)
    return next(key for key in keys if key not in context.keys)


def failure(
    context: TestContext, check: Check, diagnosis: Diagnosis, *, of_run: bool = False
) -> str:
    """Return what a check fails a test with, "" if it does not.

    `of_run` says that it was compared with another run instead of a committed file.
    """
    from pytest_gradhealth.reporting.regression import missing, regression

    fail_on = run_options(context.item.config).fail_on
    failing = check.failing_by(fail_on)
    if failing.comparison.changes:
        compared = _typed(context.item.config) if of_run else ""
        return regression(failing, diagnosis, context.view, compared=compared)
    if check.status == "missing" and "missing" in fail_on:
        return missing(check, rerun=context.view.rerun)
    return ""


def _typed(config: pytest.Config) -> str:
    """The option that compares with the other run, from where pytest was started."""
    path = os.path.relpath(run_options(config).compare or "", config.invocation_params.dir)
    return f"--gradhealth-compare={shlex.quote(path.replace(os.sep, '/'))}"


def _against_baseline(
    context: TestContext, diagnosis: Diagnosis, settings: Settings, key: str
) -> Check:
    from pytest_gradhealth.baseline.store import file_for

    path = file_for(context.item.path, run_options(context.item.config).folder)
    return _checked(context, diagnosis, settings, path, key)


def _checked(
    context: TestContext, diagnosis: Diagnosis, settings: Settings, path: Path, key: str
) -> Check:
    from pytest_gradhealth.baseline.check import UNASKED, Now, check_entry
    from pytest_gradhealth.results.environment import environment

    config, options = context.item.config, run_options(context.item.config)
    compared = path == options.compare
    shown = Path(os.path.relpath(path, config.rootpath)).as_posix()
    second = next((p for p in diagnosis.looks(diagnosis.seeds[0]) if p.steps), None)
    rtol = None if settings.baseline_rtol is None else settings.limit(BY_NAME["baseline_rtol"])
    kept_within = UNASKED if options.update else None
    now = Now(
        kept_of(diagnosis, environment(), rtol=kept_within if rtol is None else rtol.value),
        None if second is None else kept_of(diagnosis, environment(), second),
        rtol,
    )
    check = check_entry(
        now,
        _kept(config, path, shown),
        file=shown,
        key=key,
        max_path=settings.limit(BY_NAME["max_path_change"]),
        max_step=settings.limit(BY_NAME["max_step_change"]),
        absent="new" if compared else "written" if options.update else "missing",
    )
    context.keep(check, diagnosis)
    return check


def kept_of(
    diagnosis: Diagnosis,
    environment: Mapping[str, str],
    look: GradientProfile | None = None,
    rtol: float | None = None,
) -> Entry:
    """What a baseline keeps of a look, by default of the first."""
    from pytest_gradhealth.baseline.entry import entry_of

    look = look or diagnosis.profiles[0]
    return entry_of(diagnosis, environment, look, dict(_silent(diagnosis, look)), rtol)


def _silent(diagnosis: Diagnosis, look: GradientProfile) -> Iterator[tuple[str, Use]]:
    """What has become of parameters that get no gradient, or one of zeros, as far as it is known.

    Members of a list may be experts, whom another batch goes to.
    """
    from pytest_gradhealth.probing.routes import routed_lists
    from pytest_gradhealth.rules.resting import Resting
    from pytest_gradhealth.rules.unreached import silenced

    silent = [p for p in look.parameters if p.state == "none"] + silenced(look)
    resting, routed = Resting(look) if silent else None, routed_lists(diagnosis, look)
    for parameter in silent:
        lists = [*resting.busy_lists(parameter)] if resting else []
        wakes = routed is None or not {*lists}.isdisjoint(routed)
        if parameter.state == "zero":
            if not (lists and wakes):
                yield parameter.name, "zero"
        elif lists:
            yield parameter.name, "idle" if wakes else "uncalled"


def _kept(config: pytest.Config, path: Path, shown: str) -> Mapping[str, Entry]:
    from pytest_gradhealth.baseline.store import read

    known = config.stash.setdefault(_KEPT, {})
    if path not in known:
        compared = path == run_options(config).compare
        known[path] = _entries_of_run(path) if compared else read(path, shown)
    return known[path]


def read_compared(config: pytest.Config) -> None:
    """Read the report of the other run, so that one that cannot be read stops this one.

    Raises UsageError.
    """
    path = run_options(config).compare
    if path is not None:
        try:
            _kept(config, path, "")
        except ProbeError as error:
            raise usage_error(str(error)) from error


def _entries_of_run(path: Path) -> dict[str, Entry]:
    """The probes of another run's report, by test and place in it."""
    from pytest_gradhealth.reporting.json_report import read_report

    try:
        run = read_report(path)
    except ProbeError as error:
        raise ProbeError(f"--gradhealth-compare: {error}") from error
    found: dict[str, Entry] = {}
    places: dict[str, int] = {}
    for probe in run.probes:
        if probe.of_fixture:
            continue
        places[probe.test] = place = places.get(probe.test, 0) + 1
        key = probe.test + (f"#{place}" if place > 1 else "")
        found[key] = kept_of(probe.diagnosis, run.environment, rtol=0.0)
    return found

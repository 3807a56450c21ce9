"""The end of a run: baselines written and pruned, what is stale, and whether that fails the run.

Works where the reports of all tests arrive, which is the controller under pytest-xdist.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_gradhealth.distributed.rank import rank
from pytest_gradhealth.plugin.options import DOUBTS, MODELS, from_command_line, run_options
from pytest_gradhealth.plugin.outcomes import Outcomes
from pytest_gradhealth.plugin.output import write_line
from pytest_gradhealth.plugin.transport import CONCLUDED, LEFT_OUT, UNCHECKED, unpacked

if TYPE_CHECKING:
    from pytest_gradhealth.baseline.change import Change
    from pytest_gradhealth.baseline.check import Result
    from pytest_gradhealth.baseline.entry import Entry

#: Options that leave tests out, by their names in pytest's configuration.
_NARROWING = (
    *("keyword", "markexpr", "lf", "failedfirst_only", "stepwise", "deselect"),
    "gradhealth_model",
)

#: What pytest puts in place of the parameters of a test that has been given none.
_NO_PARAMETERS = "[NOTSET]"
#: Checks that fail no test, and of which there is something to say.
_TOLD = ("better", "changed", "worse")


class Keeper:
    """What a run has checked against baselines, and how its tests ended."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.notes: list[str] = []
        self._concluded: dict[str, str] = {}
        self.outcomes = Outcomes()
        self._collected: set[str] = set()
        self._modules: dict[str, str] = {}
        self._unchecked: set[str] = set()
        self._incomplete = ""
        self._unwritten = 0

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note the tests of a run without workers."""
        self._collected.update(item.nodeid for item in session.items)
        self._modules.update(modules_of(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        """Note the tests that a worker has collected."""
        del node
        self._collected.update(ids)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """A run in which a worker crashed, or left tests out, judges nothing stale."""
        output = getattr(node, "workeroutput", {})
        if error or not output:
            self._incomplete = "a worker crashed"
        else:
            self._modules.update(output.get("gradhealth_modules", {}))
            if output.get("gradhealth_left_out"):
                self.config.stash[LEFT_OUT] = True

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """The same where a module could not be collected."""
        if report.failed:
            self._incomplete = "a module could not be collected"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Read the checks off a test's last report, and how it ended off all of them."""
        self.outcomes.note(report)
        if getattr(report, UNCHECKED, False):
            self._unchecked.add(report.nodeid)
        if hasattr(report, CONCLUDED):
            self._concluded[report.nodeid] = getattr(report, CONCLUDED)

    @cached_property
    def _probes(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """What came of the probes of each test, read once all have run."""
        return {test: unpacked(text) for test, text in self._concluded.items()}

    @cached_property
    def _results(self) -> Mapping[str, Sequence[Result]]:
        """What came of the checks of each test."""
        from pytest_gradhealth.baseline.check import Result
        from pytest_gradhealth.results.serialization import from_plain

        return {
            test: [from_plain(Result, result) for probe in probes for result in probe["results"]]
            for test, probes in self._probes.items()
        }

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Write and prune once all tests have run, and count what fails the run beside them."""
        try:
            return (yield)
        except BaseException:
            self._incomplete = "the run was interrupted"
            raise
        finally:
            if session.shouldstop or session.shouldfail:
                self._incomplete = self._incomplete or "the run was stopped"
            options = run_options(self.config)
            used = self._concluded or options.update or options.prune
            if used and not rank() and not self.config.getoption("collectonly", False):
                session.testsfailed += self._failures(session)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what there is to say about baselines."""
        if self.notes:
            terminalreporter.section("gradient baselines")
            for note in self.notes:
                write_line(terminalreporter, note)

    def _failures(self, session: pytest.Session) -> int:
        """The failures that the end adds to the run; a file that cannot be read is one."""
        from pytest_gradhealth.errors import ProbeError

        try:
            return self._conclude(session)
        except ProbeError as error:
            self.notes.append(str(error))
            return 1

    def _conclude(self, session: pytest.Session) -> int:
        """Do what the options say and return how many failures that adds to the run."""
        options, failed = run_options(self.config), 0
        if options.update:
            self._write()
        self._tell()
        stale = dict(self._stale()) if any(self._results.values()) or options.prune else {}
        if options.prune:
            stale = self._prune(stale, green=not session.testsfailed)
        for file, keys in stale.items():
            self.notes.append(
                _counted(f"stale in {file}", keys)
                + f"; {self._command('--gradhealth-prune')} removes {_them(keys)}"
            )
        if stale and "stale" in options.fail_on:
            failed += 1
        for verdict in options.fatal_doubts:
            tests = [
                test
                for test, probes in sorted(self._probes.items())
                if any(probe["verdict"] == verdict for probe in probes)
            ]
            if tests:
                self.notes.append(_counted(DOUBTS[verdict], tests))
                failed += 1
        if failed:
            self.notes.append("the run fails by --gradhealth-fail-on")
        return failed + self._unwritten

    def _tell(self) -> None:
        """Note what no test has failed for."""
        by_status: dict[str, list[str]] = defaultdict(list)
        for test, results in sorted(self._results.items()):
            for result in results:
                if self.outcomes.of(test) not in ("xpassed", "xfailed"):  # no update writes theirs
                    by_status[result.status].append(result.key)
                if result.status in _TOLD and self.outcomes.passed(test):
                    for change in result.changes:
                        self.notes.append(f"{_word(change)}: {result.key}: {change.message}")
        if by_status["missing"]:
            self.notes.append(
                _counted("without a baseline", by_status["missing"])
                + f"; {self._command('--gradhealth-update')} writes {_them(by_status['missing'])}"
            )

    def _write(self) -> None:
        """Keep what the tests that passed have measured, and nothing of those that did not."""
        fresh: dict[str, dict[str, Entry]] = defaultdict(dict)
        for test, results in self._results.items():
            for result in results if self.outcomes.passed(test) else ():
                if result.entry is not None:
                    fresh[result.file][result.key] = result.entry
        for file, found in sorted(fresh.items()):
            before = self._updated(file, found)
            if before is not None:
                new = sorted(key for key in found if key not in before)
                changed = sorted(key for key in found if key in before)
                parts = [_counted("new", new)] * bool(new)
                parts += [_counted("changed", changed)] * bool(changed)
                self.notes.append(f"wrote {file}: {'; '.join(parts)}")

    def _prune(self, stale: dict[str, list[str]], *, green: bool) -> dict[str, list[str]]:
        """Remove what is stale after a complete run without failures; return what is left."""
        why = self._partial() or ("" if green else "tests failed")
        if why:
            self.notes.append(f"nothing pruned: {why}, so that nobody can tell what is stale")
            return stale
        for file, keys in stale.items():
            if self._updated(file, gone=keys) is not None:
                self.notes.append(_counted(f"pruned from {file}", keys))
        return {}

    def _updated(
        self, file: str, fresh: Mapping[str, Entry] | None = None, gone: Sequence[str] = ()
    ) -> dict[str, Entry] | None:
        """Update a file and return what was in it; None, with a note, if that is not possible."""
        from pytest_gradhealth.baseline.store import update
        from pytest_gradhealth.errors import ProbeError

        try:
            return update(self.config.rootpath / file, file, fresh, gone)
        except ProbeError as error:
            self.notes.append(str(error))
            self._unwritten += 1
            return None

    def _stale(self) -> Iterator[tuple[str, list[str]]]:
        """The keys by file that no test has any more, as far as this run can tell."""
        if self._partial():
            return
        from pytest_gradhealth.baseline.store import file_for, read

        root, folder = self.config.rootpath, run_options(self.config).folder
        checked = {(r.file, r.key) for results in self._results.values() for r in results}
        files: dict[Path, set[str]] = defaultdict(set)
        for module, place in self._modules.items():
            files[file_for(Path(place), folder)].add(module)
        for path in sorted({p for file in files for p in file.parent.glob("*.json")}):
            file = Path(os.path.relpath(path, root)).as_posix()
            modules = files.get(path, set())
            if not modules and _has_module(path):
                continue  # it was not collected
            keys = [
                key
                for key in read(path, file)
                if (file, key) not in checked and self._is_gone(modules, key)
            ]
            if keys:
                yield file, keys

    def _is_gone(self, modules: set[str], key: str) -> bool:
        """Whether no test has this key any more: none of its name, or one that no longer checks."""
        return all(
            self.outcomes.passed(test) and test not in self._unchecked
            for test in self._collected
            if test.partition("::")[0] in modules and _is_of(key, test, self._grouped)
        )

    @property
    def _grouped(self) -> bool:
        """Whether pytest-xdist adds groups to the names of tests."""
        return bool(self.config.getoption("dist", None) == "loadgroup")

    def _command(self, option: str) -> str:
        return f"pytest {option}{from_command_line(self.config)}"

    def _partial(self) -> str:
        """Why this run does not show what is stale, "" if it does."""
        config = self.config
        if self._incomplete:
            return self._incomplete
        narrowed = any(config.getoption(name, None) for name in _NARROWING)
        if narrowed or config.stash.get(LEFT_OUT, False):
            return "tests were left out"
        if any("::" in str(argument) for argument in config.args):
            return "single tests were run"
        if config.getoption("gradhealth_off"):
            return "gradient checks are switched off"
        return ""


def modules_of(items: Iterable[pytest.Item]) -> dict[str, str]:
    """Where the modules of tests are, by the part of the tests' names that stands for them."""
    return {item.nodeid.partition("::")[0]: str(item.path) for item in items}


def _has_module(path: Path) -> bool:
    """Whether there is a file that baselines may be of, in whatever case of letters.

    Those of models without a test are of no file, and of a run that checks them.
    """
    if path.stem == MODELS:
        return True
    start = f"{path.stem}.".casefold()
    return any(p.name.casefold().startswith(start) for p in path.parent.parent.iterdir())


def _is_of(key: str, test: str, grouped: bool) -> bool:
    """Whether a key is that of a check of a test."""
    name = test.partition("::")[2] or test
    if name.endswith(_NO_PARAMETERS) and key.startswith(name.removesuffix(_NO_PARAMETERS) + "["):
        return True
    for own in {name, name.rpartition("@")[0] if grouped else name}:
        number = key.removeprefix(f"{own}#")
        if key == own or (number != key and number.isdigit()):
            return True
        if key.startswith(f"{own} (") and key.endswith(")"):
            return True
    return False


def _word(change: Change) -> str:
    worse = change.fails == "regression"
    return "worse" if worse else "better" if change.better else "changed"


def _them(keys: Sequence[str]) -> str:
    return "it" if len(keys) == 1 else "them"


def _counted(title: str, keys: Sequence[str]) -> str:
    from pytest_gradhealth.reporting.regression import listed

    return f"{title}: {listed(keys)}"

"""Models without a test in a run: collected, found out about before any test, written as tests."""

from __future__ import annotations

import textwrap
from collections.abc import Generator, Sequence
from functools import cached_property

import pytest

from pytest_gradhealth.distributed.rank import rank
from pytest_gradhealth.plugin.model_items import (
    ListedModel,
    ModelItem,
    collector,
    listed_as_items,
)
from pytest_gradhealth.plugin.model_list import Listed
from pytest_gradhealth.plugin.options import run_options, shows_report
from pytest_gradhealth.plugin.output import usage_error, write_line

#: The name of a file that is not written.
_NAME = "test_models.py"
#: Attribute of a report with what there is to say of a model.
_SAID = "gradhealth_said"


class ModelSession:
    """The models of a run, in each process of it."""

    def __init__(self, config: pytest.Config, listed: Sequence[Listed]) -> None:
        self.config = config
        self._models = listed_as_items(config, listed)
        self._said: dict[str, str] = {}
        self._written = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """With workers, find out about all models here, where a mistake can stop the run."""
        if self.config.pluginmanager.hasplugin("dsession") and self._runs:
            self._find(self._models, planned=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> None:
        """Leave out tests where models are named and no tests are."""
        given = self.config.args_source is pytest.Config.ArgsSource.ARGS
        if self.config.getoption("gradhealth_model") is not None and not given:
            session.config.args = []

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Collect the models beside the files of a session."""
        if isinstance(collector, pytest.Session):
            self._find(self._models, planned=False)
        report = yield
        if isinstance(collector, pytest.Session) and report.passed:
            report.result.append(self._collector(collector))
        return report

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Find out what the models that are to run are checked with."""
        if self._runs and not hasattr(self.config, "workerinput"):
            chosen = [item.model for item in session.items if isinstance(item, ModelItem)]
            self._find(chosen, planned=True)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put what there is to say of a model on its report, so that it arrives from workers."""
        report = yield
        if isinstance(item, ModelItem) and report.when == "call":
            setattr(report, _SAID, item.said)
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note which models were checked, and what there is to say of them."""
        if hasattr(report, _SAID):
            self._said[report.nodeid] = getattr(report, _SAID)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the test file, if that is asked for; one that there is stays as it is."""
        path = run_options(self.config).write_test
        if path is None or rank() or hasattr(self.config, "workerinput") or not self._checked:
            return
        from pytest_gradhealth.files import rewrite

        def text() -> bytes:
            if path.exists():
                raise FileExistsError(17, "there is one already", str(path))
            return self._text.encode()

        shown = self.config.getoption("gradhealth_write_test")
        try:
            rewrite(path, text)
            self._written = f"the same as a test: {shown}"
        except OSError as error:
            self._written = f"{shown} was not written ({error})"
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was guessed, and show the test file that would check the same."""
        named = self.config.getoption("gradhealth_model") is not None
        if rank() or not self._checked or not (named or shows_report(self.config)):
            if self._written:
                write_line(terminalreporter, self._written)
            return
        terminalreporter.section("models without a test")
        width = terminalreporter._tw.fullwidth
        for model in self._checked:
            write_line(terminalreporter, f"{model.nodeid}: {self._said[model.nodeid]}")
            guessed = model.guessed or "nothing was guessed"
            for line in textwrap.wrap(guessed, width - 4, subsequent_indent="    "):
                write_line(terminalreporter, f"    {line}")
        write_line(terminalreporter, "")
        if self._written:
            write_line(terminalreporter, self._written)
            return
        write_line(
            terminalreporter, f"the same as a test (--gradhealth-write-test={_NAME} writes it):"
        )
        for line in ("", *self._text.splitlines()):
            write_line(terminalreporter, line)

    @property
    def _runs(self) -> bool:
        """Whether models are checked in this run, not only listed."""
        option = self.config.getoption
        return not option("collectonly", False) and not option("gradhealth_off")

    def _collector(self, session: pytest.Session) -> pytest.Collector:
        return collector(session, self._models)

    def _find(self, models: Sequence[ListedModel], *, planned: bool) -> None:
        """Find models, or what they are checked with; raises UsageError with all that cannot be."""
        found = (model.problem(planned=planned) for model in models)
        problems = dict.fromkeys(filter(None, found))
        if problems:
            raise usage_error("\n".join(problems))

    @property
    def _checked(self) -> Sequence[ListedModel]:
        return [model for model in self._models if self._said.get(model.nodeid)]

    @cached_property
    def _text(self) -> str:
        from pytest_gradhealth.specs.written import Written, file_text

        return file_text([Written(m.nodeid, m.plan, m.listed.settings) for m in self._checked])

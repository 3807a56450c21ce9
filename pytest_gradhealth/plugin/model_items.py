"""A model that is checked without a test: a test item of its own, whose node id is its spec."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pluggy
import pytest

from pytest_gradhealth.errors import GradientHealthError, ProbeError
from pytest_gradhealth.formatting import printable
from pytest_gradhealth.plugin.context import LISTED, RERUN
from pytest_gradhealth.plugin.model_list import Listed
from pytest_gradhealth.plugin.options import MODELS, flag_of
from pytest_gradhealth.specs.plan import Given, Plan, Planner
from pytest_gradhealth.specs.spec import parse


class ListedModel:
    """A model of the list: what its spec names, and what it is checked with."""

    def __init__(self, config: pytest.Config, listed: Listed, nodeid: str) -> None:
        self.listed, self.nodeid = listed, nodeid
        self._config = config

    @cached_property
    def planner(self) -> Planner:
        """What is named by the spec; raises SettingError for what there is not."""
        listed, config = self.listed, self._config
        of_table = listed.where != flag_of("model")
        inputs = f"input of {listed.where}" if of_table else flag_of("input")
        loss = f"loss of {listed.where}" if of_table else flag_of("loss")
        given = Given(listed.inputs, listed.loss, inputs, loss)
        folders = folders_of(config, of_table=of_table)
        return Planner(parse(listed.spec), given, folders, beside(config))

    @cached_property
    def plan(self) -> Plan:
        """What it is checked with; raises SettingError for what cannot be."""
        return self.planner.plan()

    def problem(self, *, planned: bool) -> str:
        """Why it cannot be found, or `planned`, "" if it can."""
        try:
            _ = self.plan if planned else self.planner
        except ProbeError as error:
            return str(error)
        return ""

    @property
    def guessed(self) -> str:
        """What of that nobody has said, "" for nothing."""
        return f"guessed: {', '.join(self.plan.guessed)}" if self.plan.guessed else ""

    @property
    def rerun(self) -> str:
        """The command that checks it alone."""
        import shlex

        values = [("model", self.listed.name or self.listed.spec)]
        given = self._config.getoption("gradhealth_input") or ()
        values += [("input", text) for text in given]
        if loss := self._config.getoption("gradhealth_loss"):
            values.append(("loss", loss))
        return " ".join(["pytest", *(shlex.quote(f"{flag_of(n)}={v}") for n, v in values)])


def listed_as_items(config: pytest.Config, listed: Sequence[Listed]) -> list[ListedModel]:
    """The models of a list, each with a node id of its own."""
    found, taken = [], dict[str, int]()
    for one in listed:
        spec = printable(one.spec.strip())
        taken[spec] = number = taken.get(spec, 0) + 1
        nodeid = spec if number == 1 else f"{spec}[{printable(one.name) or number}]"
        found.append(ListedModel(config, one, nodeid))
    return found


def folders_of(config: pytest.Config, *, of_table: bool = False) -> list[Path]:
    """Where files and modules are looked for: where pytest was started, and where its ini file is.

    What a table says begins with the latter.
    """
    folders = [config.invocation_params.dir, config.rootpath]
    return [*dict.fromkeys(reversed(folders) if of_table else folders)]


def beside(config: pytest.Config) -> Path:
    """The folder of the test file that is shown, or written."""
    given = config.getoption("gradhealth_write_test")
    return (config.invocation_params.dir / Path(given or "-").expanduser()).parent


class Models(pytest.Collector):
    """The models of a run, which lie in no file."""

    models: Sequence[ListedModel] = ()

    def collect(self) -> Iterator[pytest.Item]:
        """Yield an item for each."""
        for model in self.models:
            item: ModelItem = ModelItem.from_parent(self, name=model.nodeid, nodeid=model.nodeid)
            item.begin(model)
            yield item


class ModelItem(pytest.Item):
    """A model as a test that asserts that it is healthy."""

    model: ListedModel
    #: What there is to say of it in a line, once it has run.
    said = ""

    def begin(self, model: ListedModel) -> None:
        """Take a model, with the markers and the settings that it is listed with."""
        self.model = model
        for name in model.listed.marks:
            self.add_marker(name.strip())
        if model.listed.settings:
            self.add_marker(pytest.mark.gradhealth(**model.listed.settings))
            self.stash[LISTED] = model.listed.settings, f"{model.listed.where}, {self.name}"
        self.stash[RERUN] = model.rerun

    @property
    def ihook(self) -> pluggy.HookRelay:
        """The hooks of the rootdir: its own path is of no file, whose folder has some."""
        return self.session.ihook

    def runtest(self) -> None:
        """Assert what a test would."""
        __tracebackhide__ = True
        from pytest_gradhealth.assertions import assert_healthy
        from pytest_gradhealth.context import current
        from pytest_gradhealth.reporting.message import headline

        context = current()
        if context is not None:
            context.begin()
        model, plan = self.model, self.model.plan
        if model.guessed:
            self.user_properties.append(("gradhealth.guessed", model.guessed))
        inputs, targets = plan.batch_and_targets()
        loss = None if plan.loss is None else plan.loss.function
        try:
            found = assert_healthy(plan.model, inputs, targets, loss=loss, msg=self._with_guesses)
        except (GradientHealthError, ProbeError) as error:
            self.said = str(error).partition("\n")[0]
            raise
        complaints = [f for f in found.findings if f.severity != "info"]
        self.said = headline(found, complaints).replace("\n", "; ")

    def _with_guesses(self, text: str) -> str:
        """A message of failure with what was guessed behind it."""
        return "\n\n".join(filter(None, (text, self.model.guessed)))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show what a check says, and where the model is; the traceback of anything else."""
        if not isinstance(excinfo.value, (GradientHealthError, ProbeError)):
            return super().repr_failure(excinfo, style)
        told = excinfo.getrepr(style="value", chain=False)
        crash = getattr(told, "reprcrash", None)
        if crash is not None:
            crash.path, line, _ = self.reportinfo()
            crash.lineno = line + 1
        return told

    def reportinfo(self) -> tuple[str, int, str]:
        """The line of the class, or of the function that builds the model."""
        file, line = self.model.planner.place
        # Not the name alone, of which pytest takes what follows a point for a method.
        return file or os.fspath(self.path), line, f"model {self.name}"


def collector(session: pytest.Session, models: Sequence[ListedModel]) -> Models:
    """The models of a run as pytest collects them, with baselines in the rootdir."""
    path = session.config.rootpath / MODELS
    found: Models = Models.from_parent(session, name=MODELS, path=path, nodeid=MODELS)
    found.models = models
    return found

"""Reports with something wrong anywhere: what is read can be used, and all else is an error."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from pytest_gradhealth import ProbeError, Run
from pytest_gradhealth.baseline.check import Now, check_entry
from pytest_gradhealth.baseline.entry import entry_of
from pytest_gradhealth.formatting import View
from pytest_gradhealth.reporting.files import rendered
from pytest_gradhealth.reporting.github import workflow_commands
from pytest_gradhealth.reporting.json_report import read_json, write_json
from pytest_gradhealth.reporting.junit import properties
from pytest_gradhealth.reporting.message import render
from pytest_gradhealth.reporting.plots import path_plots, time_plots
from pytest_gradhealth.reporting.regression import regression
from pytest_gradhealth.reporting.terminal import report_lines
from pytest_gradhealth.results.diagnosis import Limit
from pytest_gradhealth.results.serialization import LIVE, AtLeast
from pytest_gradhealth.rules import Rule, built_in_rules
from tests.helpers.wrong import WRONG, places, with_wrong


def filled(kind: Any, least: int = 1) -> Any:
    """A value of a type of the records, with one of everything that it may hold."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        kept = [f.name for f in dataclasses.fields(kind) if not f.metadata.get(LIVE)]
        return typing.cast("Any", kind)(**{name: filled(hints[name]) for name in kept})
    if origin is typing.Annotated:
        assert isinstance(arguments[1], AtLeast)
        return filled(arguments[0], arguments[1].least)
    if origin is typing.Literal:
        return arguments[0]
    if origin in (typing.Union, types.UnionType):
        return filled(next(a for a in arguments if a is not type(None)))
    if origin is tuple:
        return tuple(filled(argument) for argument in arguments if argument is not ...)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"a": filled(arguments[1])}
    return {str: "x", int: least, bool: True, float: 0.5}[kind]


def whole(rules: Sequence[Rule]) -> Run:
    """A run with a record of every kind, and a failure by each of some rules."""
    run: Run = filled(Run)
    (probe,) = run.probes
    (finding,) = probe.diagnosis.findings
    findings = tuple(dataclasses.replace(finding, code=rule.code, rule=rule.name) for rule in rules)
    diagnosis = dataclasses.replace(probe.diagnosis, findings=findings)
    return dataclasses.replace(run, probes=(dataclasses.replace(probe, diagnosis=diagnosis),))


def use(run: Run) -> None:
    """Do all that is done with a report: compare with it, and write it in every form."""
    for probe in run.probes:
        diagnosis = probe.diagnosis
        now = entry_of(diagnosis, run.environment)
        for check in probe.checks:
            regression(check, diagnosis, View(verbose=True))
            for before in (check.entry, check.before or now):
                limit = Limit(0.5, "default")
                again = check_entry(
                    Now(now, check.entry),
                    {"k": before},
                    file="f",
                    key="k",
                    max_path=limit,
                    max_step=limit,
                )
                regression(again, diagnosis, View())
        properties(diagnosis, probe.checks)
        render(diagnosis)
        path_plots(probe)
        time_plots(diagnosis.profile.times)
        assert isinstance(diagnosis.ratio, float)
        assert diagnosis.confirmation is None or diagnosis.confirmation.steps
    for kind in ("json", "markdown", "sarif"):
        rendered(kind, run)
    list(workflow_commands(run))
    list(report_lines(run.probes, width=100, verbose=True, told=False))


#: What the package says of a report that it refuses.
KNOWN = ("this is no JSON report of pytest-gradhealth (", "the report was written by a newer")
RULES = built_in_rules()
DATA = json.loads(write_json(whole(RULES[:1])))


def refusal(text: str) -> str:
    """What the package says of a report, "" if it can be used, or what else is raised."""
    try:
        use(read_json(text))
    except ProbeError as error:
        return str(error)
    except Exception as error:
        return f"not the package's: {error!r}"
    return ""


def test_a_whole_report_is_read_and_used() -> None:
    run = read_json(write_json(whole(RULES)))
    assert run == whole(RULES)
    use(run)
    rendered("html", run)


def test_whatever_stands_in_a_report_it_is_used_or_refused() -> None:
    tried = [*itertools.product(places(DATA), WRONG)]
    said = [refusal(with_wrong(way, wrong, DATA)) for way, wrong in tried]
    assert len(said) > 1000
    assert 100 < said.count("") < len(said) / 2
    others = [(*at, text) for at, text in zip(tried, said, strict=True) if text]
    assert [found for found in others if not found[2].startswith(KNOWN)] == []


@pytest.mark.parametrize("wrong", [None, -1, math.inf])
def test_a_rule_that_has_found_something_without_its_numbers_is_told(wrong: float | None) -> None:
    for rule in RULES:
        data = json.loads(write_json(whole([rule])))
        (finding,) = data["probes"][0]["diagnosis"]["findings"]
        for name in ("value", "limit", "path", "seed"):
            data["probes"][0]["diagnosis"]["findings"] = [finding | {name: wrong}]
            said = refusal(json.dumps(data))
            assert not said or said.startswith(KNOWN)


@pytest.mark.parametrize(
    ("way", "wrong", "message"),
    [
        ((), [], "(TypeError: list indices must be integers"),
        (("notes",), "x", "notes is 'x', not a list"),
        (("version",), True, "version is True"),
        (("environment", "a"), 1, "environment.a is 1, not a string"),
        (
            ("probes", 0, "outcome"),
            "fine",
            "probes[0].outcome is 'fine', not one of 'passed', 'failed', 'skipped', 'xfailed',"
            " 'xpassed', 'error'",
        ),
        (
            ("probes", 0, "diagnosis", "profiles", 0, "paths", 0, "points", 0, "numel"),
            0,
            "probes[0].diagnosis.profiles[0].paths[0].points[0].numel is 0, not 1 or more",
        ),
        (("probes", 0, "diagnosis", "profiles"), [], "profiles is [], not a list of 1 or more"),
        (("probes", 0, "of_fixture"), 1, "probes[0].of_fixture is 1, not true or false"),
        (("probes", 0, "line"), 10**20, "line is 100000000000000000000, not an integer"),
        (("probes", 0, "checks", 0, "comparison", "paths", 0, "pairs", 0, "after"), 9, "layer 9"),
    ],
)
def test_the_error_says_where_it_is_and_what_should_be_there(
    way: tuple[str | int, ...], wrong: object, message: str
) -> None:
    assert message in refusal(with_wrong(way, wrong, DATA))

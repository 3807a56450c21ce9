"""Names and numbers of every kind do no harm in any format."""

from __future__ import annotations

import ast
import dataclasses
import io
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pytest_gradhealth import (
    Probe,
    RegressionError,
    Run,
    VanishingGradientError,
    View,
    assert_no_vanishing,
    read_report,
)
from pytest_gradhealth.formatting import LONGEST_LINE, harmless
from pytest_gradhealth.plugin.output import write_line
from pytest_gradhealth.reporting.github import workflow_commands
from pytest_gradhealth.reporting.html import html_report
from pytest_gradhealth.reporting.json_report import read_json, schema, write_json
from pytest_gradhealth.reporting.junit import properties
from pytest_gradhealth.reporting.markdown import code, markdown_report
from pytest_gradhealth.reporting.message import render
from pytest_gradhealth.reporting.regression import missing, regression
from pytest_gradhealth.reporting.run import Invocation
from pytest_gradhealth.reporting.sarif import sarif_report
from pytest_gradhealth.reporting.terminal import report_lines
from pytest_gradhealth.results.serialization import LIVE
from pytest_gradhealth.rules import built_in_rules
from tests.helpers.runs import SICK, Reader, checked, measured, net, renamed
from tests.helpers.sarif import SARIF

jsonschema: Any = pytest.importorskip("jsonschema")
RULES = built_in_rules()


#: Names that begin with, hold or would become what somebody else acts on.
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><!--",
    '" onmouseover="x',
    "&lt;b&gt;",
    "{{ 7 * 7 }}{% raw %}",
    "\x1b[2J\x1b]0;title\x07",
    "a\nb\r\nc",
    "::error file=x::y",
    "##[error]y",
    "%0A::error::y",
    "| a | b |",
    "``` ` ```",
    "<details>",
    "@everyone #1 http://example.com",
    "n" * 10_000,
    "\ud800",
    "\u202eevil\u2066",
    "\u2028\u2029\x00\x85",
    "]]>",
    ":",
    "a ::error::b " * 30,
    "\u200b\u00ad\ufeff::error::a",
    "\x9b31m\x1bP1;2|\x1b\\",
    "",
]
NAMES = st.sampled_from(HOSTILE) | st.text(max_size=30)


WORSE = checked(measured(net()), SICK)


def hostile(name: str) -> Run:
    check = renamed(WORSE, name)
    probe = Probe(name, "failed", renamed(SICK, name), (check,), name, name, 1)
    probes = probe, replace(probe, outcome="passed")
    return Run(probes, {name: name}, (name,), invocation=Invocation(name, name, name))


def as_junit(run: Run) -> str:
    """The properties of all probes, as pytest writes them."""
    suite = ET.Element("testsuite")
    for probe in run.probes:
        case = ET.SubElement(ET.SubElement(suite, "testcase"), "properties")
        for name, value in properties(probe.diagnosis, probe.checks):
            ET.SubElement(case, "property", name=name, value=value)
    return ET.tostring(suite, encoding="unicode")


class Reporter:
    """Stands for the reporter of pytest, and keeps what it is given to write."""

    def __init__(self, encoding: str = "utf-8") -> None:
        self._tw = SimpleNamespace(_file=io.TextIOWrapper(io.BytesIO(), encoding))
        self.lines: list[str] = []

    def write_line(self, line: str, **_: bool) -> None:
        self._tw._file.write(line)
        self.lines.append(line)


def as_terminal(run: Run) -> str:
    """The report and the notes at the end, as they are written."""
    reporter: Any = Reporter()
    for line, markup in report_lines(run.probes, width=80, verbose=True, told=False):
        write_line(reporter, line, **markup)
    for note in run.notes:
        write_line(reporter, note)
    return "\n".join(reporter.lines)


def as_message(run: Run) -> str:
    """What a test fails with, by a rule and by a baseline."""
    probe, *_ = run.probes
    view, (check,) = View(verbose=True, rerun=probe.test), probe.checks
    texts = [
        render(probe.diagnosis, view=view),
        regression(check, probe.diagnosis, view, compared=probe.test),
        missing(check, rerun=probe.test),
    ]
    return "\n".join(map(str, [probe.diagnosis, *map(RegressionError, texts)]))


FORMATS: dict[str, Callable[[Run], str]] = {
    "json": write_json,
    "html": html_report,
    "markdown": markdown_report,
    "github": lambda run: "\n".join(workflow_commands(run)),
    "sarif": lambda run: json.dumps(sarif_report(run, RULES)),
    "junit": as_junit,
    "message": as_message,
    "terminal": as_terminal,
}


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("kind", FORMATS)
def test_no_name_does_harm_in_any_format(kind: str, name: str) -> None:
    text = FORMATS[kind](hostile(name))
    text.encode("utf-8")
    assert len(text) < 1_500_000 or kind == "json"
    if kind == "html":
        assert Reader(text).open == []
        assert len(re.findall("<script", text)) == 3
    if kind == "json":
        assert len(read_json(text).probes) == 2
    if kind == "sarif":
        jsonschema.Draft202012Validator(SARIF).validate(json.loads(text))
    if kind == "junit":
        found = {p.get("name"): p.get("value", "") for p in ET.fromstring(text).iter("property")}
        assert {"gradhealth_model", "gradhealth_verdict", "gradhealth_regression"} <= {*found}
        assert all(value.isprintable() and len(value) <= 1000 for value in found.values())
    if kind == "github":
        for line in text.split("\n"):
            assert re.fullmatch(
                r"::(error|warning) (file=[^,:\n]*,)?line=1,title=[^,:]*::[^\r\n]*", line
            )
            assert not re.search("%(?!25|0A|0D|3A|2C)", line)
    if kind in ("terminal", "message", "markdown", "github"):
        assert all(c.isprintable() or c == "\n" for c in text)
    if kind in ("terminal", "message", "markdown"):
        assert max(map(len, text.split("\n"))) <= LONGEST_LINE
        assert not re.search(r"(?m)^\s*::|##\w*\[", text)


@pytest.mark.parametrize("kind", ["html", "markdown", "junit", "message", "terminal"])
def test_long_names_are_cut_where_they_are_shown(kind: str) -> None:
    text = FORMATS[kind](hostile(f"head{100_000 * 'n'}tail"))
    assert "headnnnn" in text
    assert "nnnntail" in text
    assert "..(100,008 characters).." in text
    most = {"html": 400, "markdown": 300}.get(kind, LONGEST_LINE)
    assert most * "n" not in text


def test_long_names_are_whole_in_json() -> None:
    name = f"head{100_000 * 'n'}tail"
    run = Run((Probe(name, "failed", replace(SICK, model=name)),), {}, (name,))
    assert same(run, read_json(write_json(run)))


def with_numbers(value: Any, number: float) -> Any:
    """The same records with one number in all places that hold fractions."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
        return replace(value, **{name: with_numbers(item, number) for name, item in kept.items()})
    if isinstance(value, tuple):
        return tuple(with_numbers(item, number) for item in value)
    return number if isinstance(value, float) else value


def few(value: Any) -> Any:
    """The same records with four of each kind at most: those that follow are like them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
        return replace(value, **{name: few(item) for name, item in kept.items()})
    return tuple(map(few, value[:4])) if isinstance(value, tuple) else value


def report_of(name: str, number: float, outcome: Any) -> Run:
    run: Run = few(hostile(name))
    diagnosis = with_numbers(run.probes[0].diagnosis, number)
    check = with_numbers(run.probes[0].checks[0], number)
    probe = replace(run.probes[0], diagnosis=diagnosis, checks=(check,), outcome=outcome)
    return replace(run, probes=(probe, probe))


NUMBERS = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 5e-324]) | st.floats()
OUTCOMES = st.sampled_from(["passed", "failed", "skipped", "xfailed", "xpassed", "error"])
VALID = jsonschema.Draft202012Validator(schema())


def same(one: Any, other: Any) -> bool:
    """Whether two trees of records are equal; NaN equals itself, live objects do not count."""
    if dataclasses.is_dataclass(one) and not isinstance(one, type):
        kept = [item.name for item in dataclasses.fields(one) if not item.metadata.get(LIVE)]
        return all(same(getattr(one, name), getattr(other, name)) for name in kept)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Mapping):
        return [*one] == [*other] and all(same(one[key], other[key]) for key in one)
    if isinstance(one, float):
        return repr(one) == repr(float(other))
    return bool(one == other)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.builds(report_of, NAMES, NUMBERS, OUTCOMES))
def test_any_report_survives_json(run: Run) -> None:
    text = write_json(run)
    data = json.loads(text, parse_constant=lambda constant: pytest.fail(constant))
    assert VALID.is_valid(data)
    again = read_json(text)
    assert write_json(again) == text
    name = run.probes[0].test
    if name.encode("utf-8", "replace").decode() == name:  # half a surrogate pair is spelled out
        assert same(run, again)


def test_records_that_differ_are_not_the_same() -> None:
    run = report_of("a", math.nan, "passed")
    assert same(run, run)
    assert not same(run, report_of("b", math.nan, "passed"))
    assert not same(run, report_of("a", 0.0, "passed"))
    assert not same(report_of("a", 0.0, "passed"), report_of("a", -0.0, "passed"))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(NAMES)
def test_code_spans_hold_their_text(name: str) -> None:
    span = code(name)
    fence = re.match("`+", span)
    assert fence is not None
    assert span.endswith(fence[0])
    inner = span[len(fence[0]) : -len(fence[0])]
    assert fence[0] not in re.findall("`+", inner)
    assert "\n" not in span
    assert not re.search(r"(?<!\\)\|", span)


def test_hostile_names_do_no_harm_in_a_run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    pytester.makepyfile(
        """
import pytest, torch
from torch import Tensor, nn

class Net(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.add_module(name, nn.Linear(4, 4))
        self.name = name
    def forward(self, x):
        return getattr(self, self.name)(x)

NAMES = ["<b>", "::error::x", "a\\nb", "\\x1b[2J", "n" * 10000, "\\ud800", "]]>", "`|"]

@pytest.mark.parametrize("name", NAMES, ids=NAMES)
@pytest.mark.gradhealth(baseline=True)
def test_name(gradhealth, name):
    gradhealth.probe(Net(name), torch.randn(4, 4), warn_min_ratio=0.99, max_output=1e-9)
"""
    )
    options = ["-p", "no:cacheprovider", "--gradhealth-report", "--junitxml=j.xml", "-v"]
    options += [f"--gradhealth-{kind}=out.{kind}" for kind in ("json", "html", "markdown", "sarif")]
    result = pytester.runpytest(*options, "--gradhealth-update")
    result.assert_outcomes(passed=8)
    assert pytester.runpytest(*options).ret == 0
    for line in result.stdout.str().split("\n"):
        assert "\x1b[2J" not in line
        if line.lstrip().startswith("::"):
            assert re.match(r"::warning file=test_\w+\.py,line=\d+,title=[^,:]*::", line)
    tree = ET.parse("j.xml")
    values = [p.get("value", "") for p in tree.iter("property")]
    assert any(value.startswith("GH") for value in values)
    assert Reader(Path("out.html").read_text(encoding="utf-8")).open == []
    assert len(read_report("out.json").probes) == 8


def test_no_name_gets_out_of_the_code_of_a_remedy() -> None:
    name = 'head\n::error title=x::y\n##vso[a]b"c\\ h\x1b[31mred\x07 ##[error]y'

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            parts: list[nn.Module] = []
            for layer in range(10):
                parts += [nn.Linear(32 if layer else 20, 32), nn.Sigmoid()]
            self.hidden = nn.Sequential(*parts)
            self.add_module(name, nn.Linear(32, 5))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = getattr(self, name)(self.hidden(x))
            return out

    torch.manual_seed(0)
    x, y = torch.randn(16, 20), torch.arange(16) % 5
    with pytest.raises(VanishingGradientError) as caught:
        assert_no_vanishing(Net(), x, y, loss=cross_entropy, remedy_budget=30)
    diagnosis = caught.value.diagnosis
    assert diagnosis is not None
    text = harmless(render(diagnosis, view=View(verbose=True)))
    assert "if isinstance(m, nn.Linear) and name != " in text
    assert all(character.isprintable() for character in text.replace("\n", ""))
    assert "##[" not in text
    assert "##vso[" not in text
    assert not any(line.lstrip().startswith("::") for line in text.splitlines())
    for treatment in diagnosis.treatments:
        ast.parse(treatment.code)

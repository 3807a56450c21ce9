"""JSON, Markdown, GitHub's annotations, JUnit and SARIF, and names that do no harm in them."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import pytest_gradhealth
from pytest_gradhealth import (
    Probe,
    ProbeError,
    Run,
    VanishingGradientError,
    assert_no_vanishing,
    read_report,
)
from pytest_gradhealth.reporting.github import workflow_commands
from pytest_gradhealth.reporting.html import html_report
from pytest_gradhealth.reporting.json_report import VERSION, read_json, schema, write_json
from pytest_gradhealth.reporting.junit import properties
from pytest_gradhealth.reporting.markdown import LARGEST, code, markdown_report
from pytest_gradhealth.reporting.sarif import sarif_report
from pytest_gradhealth.reporting.summary import verdict_line
from pytest_gradhealth.reporting.terminal import report_lines
from pytest_gradhealth.results.serialization import LIVE
from pytest_gradhealth.rules import built_in_rules
from tests.helpers.runs import (
    LONG_NAME,
    SICK,
    Reader,
    checked,
    many,
    measured,
    net,
    renamed,
    renamed_records,
    sample,
)
from tests.helpers.sarif import SARIF

jsonschema: Any = pytest.importorskip("jsonschema")
RULES = [(rule.code, rule.name, rule.summary) for rule in built_in_rules()]


@pytest.fixture(scope="module")
def run() -> Run:
    return sample()


# JSON


def test_a_run_survives_json_and_fits_the_schema(run: Run) -> None:
    text = write_json(run)
    assert text.isascii()
    assert repr(read_json(text)) == repr(run).replace(repr(run), repr(read_json(text)))
    assert write_json(read_json(text)) == text
    jsonschema.Draft202012Validator(schema()).validate(json.loads(text))


def test_the_shipped_schema_is_that_of_the_records() -> None:
    path = Path(pytest_gradhealth.__file__).parent / "reporting" / "schema.json"
    assert json.loads(path.read_text()) == schema(), "write schema() to it"
    jsonschema.Draft202012Validator.check_schema(schema())


def test_the_schema_refuses_what_is_not_a_report(run: Run) -> None:
    data = json.loads(write_json(run))
    data["probes"][0]["diagnosis"]["verdict"] = "fine"
    assert not jsonschema.Draft202012Validator(schema()).is_valid(data)
    assert not jsonschema.Draft202012Validator(schema()).is_valid({})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "this is no JSON report of pytest-gradhealth (JSONDecodeError: Expecting value"),
        ("{}", "this is no JSON report of pytest-gradhealth (KeyError: 'version')"),
        ('{"version": 1}', "this is no JSON report of pytest-gradhealth (TypeError: "),
        (
            json.dumps({"version": VERSION + 1}),
            f"the report was written by a newer version (format {VERSION + 1}, this one reads up to"
            f" {VERSION}); update pytest-gradhealth",
        ),
    ],
)
def test_other_files_are_no_reports(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "old.json"
    file.write_text(text)
    with pytest.raises(ProbeError) as caught:
        read_report(file)
    assert str(caught.value).startswith(f"{file}: {message}")
    if "no JSON report" in message:
        assert str(caught.value).endswith("; write one with --gradhealth-json=PATH")
    with pytest.raises(ProbeError, match="cannot be read"):
        read_report(tmp_path / "none.json")


def test_a_report_that_is_cut_off_is_none(run: Run) -> None:
    with pytest.raises(ProbeError, match="no JSON report"):
        read_json(write_json(run)[:-100])


# Markdown


def test_markdown_has_a_verdict_line_what_fails_and_the_rest_folded(run: Run) -> None:
    text = markdown_report(run)
    assert text.startswith("### Gradient health: 2 of 4 probes fail, 1 warns\n\n| test | what |")
    assert "| `test_a.py::test_net` | `regression` `x" in text
    assert "- `stale in f.json: test_old`" in text
    assert "<details><summary>1 probe without a complaint</summary>" in text
    folded = text[text.index("<details>") :]
    assert "the gradient vanishes" in folded
    assert re.search(r"\| `test_a.py::test_healthy` \| healthy \| x", folded)


WIDE = "\U0001d54f"  # four bytes in UTF-8


@pytest.mark.parametrize("name", ["n", LONG_NAME, WIDE * 290, "|`" * 145], ids=range(4))
@pytest.mark.parametrize(
    "kinds", [("healthy",), ("warning",), ("failing",), ("healthy", "failing")]
)
def test_a_summary_never_gets_too_large(kinds: tuple[str, ...], name: str) -> None:
    probes = tuple(probe for kind in kinds for probe in many(kind, 2500, name))
    notes = tuple(f"{i}{name}" for i in range(2500))
    text = markdown_report(Run(probes, {f"{i}{name}": name for i in range(2500)}, notes))
    assert len(text.encode()) <= LARGEST
    assert re.search(r"^\d+ more rows left out$", text, re.MULTILINE)
    assert text.count("<details>") == text.count("</details>")
    assert "<summary>environment</summary>" in text
    assert f"- `{'`' if '`' in name else ''}" in text
    if "healthy" in kinds:
        folded = text[text.index("2500 probes without a complaint") :]
        assert folded.count("| healthy |") > 10
    if "failing" in kinds:
        assert re.search(r"^\d+ messages left out: a summary may not be larger\.$", text, re.M)


def test_rows_are_cut_to_what_fits_and_counted() -> None:
    text = markdown_report(Run(many("healthy", 2500)))
    shown = text.count("| healthy |")
    assert 1000 < shown <= 2000
    assert f"\n\n{2500 - shown} more rows left out\n" in text
    text = markdown_report(Run(many("failing", 201, "n")))
    assert text.count("| `t") == 200
    more = 201 * sum(finding.severity != "info" for finding in SICK.findings) - 200
    assert f"\n\n{more} more row{'s' * (more > 1)} left out\n" in text


def test_a_small_run_is_shown_whole(run: Run) -> None:
    assert "left out" not in markdown_report(run)


def test_one_line_on_all_probes() -> None:
    healthy = Probe("t", "passed", measured(net()))
    failing = Probe("t", "failed", measured(net(nn.Sigmoid, 12)))
    expected = replace(failing, outcome="xfailed")
    for probes, line in (
        ((), "no test probed a model"),
        ((healthy,), "1 probe, healthy"),
        ((healthy, expected), "2 probes: 1 fails as expected"),
        ((failing,), "1 of 1 probe fails"),
        ((failing, failing, healthy), "2 of 3 probes fail"),
    ):
        assert verdict_line(Run(probes)) == line


# GitHub


def test_annotations_are_at_the_line_of_the_test(run: Run) -> None:
    commands = list(workflow_commands(run))
    sick = next(c for c in commands if "GH101" in c and c.startswith("::error file=test_a.py"))
    assert sick.startswith(
        "::error file=test_a.py,line=9,title=gradient health%3A GH101::the gradient vanishes: x"
    )
    assert [c.partition(" ")[0] for c in commands] == ["::error", "::error", "::warning"]


def test_expected_failures_are_not_annotated_and_ten_are_enough() -> None:
    sick = measured(net(nn.Sigmoid, 12))
    expected = tuple(Probe(f"t{i}", "xfailed", sick) for i in range(3))
    assert list(workflow_commands(Run(expected))) == []
    many = tuple(Probe(f"t{i}", "failed", sick) for i in range(14))
    commands = list(workflow_commands(Run(many)))
    assert len(commands) == 10
    assert commands[-1].endswith("%0Aand 4 more probes, which GitHub does not show")


# JUnit


def test_findings_and_ratios_are_properties(run: Run) -> None:
    worse = run.probes[1]
    found = properties(worse.diagnosis, worse.checks)
    assert ("gradhealth_verdict", worse.diagnosis.verdict) in found
    assert ("gradhealth_ratio", f"{worse.diagnosis.ratio:.6g}") in found
    assert ("gradhealth_baseline", "worse test_net") in found
    assert any(name == "gradhealth_regression" for name, _ in found)
    finding = next(value for name, value in properties(run.probes[2].diagnosis) if "GH101" in value)
    assert re.fullmatch(r"GH101 failure layer=\d+ value=\S+ limit=1e-05", finding)


# SARIF


def test_sarif_has_a_result_for_all_that_fails_or_warns(run: Run) -> None:
    report = sarif_report(run, RULES)
    jsonschema.Draft202012Validator(SARIF).validate(report)
    (part,) = report["runs"]
    rules = part["tool"]["driver"]["rules"]
    for result in part["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    kinds = [(r["ruleId"], r["level"]) for r in part["results"]]
    assert ("regression", "error") in kinds
    assert ("GH101", "error") in kinds
    sick = next(r for r in part["results"] if "test_sick" in r["message"]["text"])
    assert sick["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "test_a.py"},
        "region": {"startLine": 9},
    }
    again = sarif_report(run, RULES)["runs"][0]["results"]
    prints = [r["partialFingerprints"]["gradhealth/v1"] for r in part["results"]]
    assert prints == [r["partialFingerprints"]["gradhealth/v1"] for r in again]


# Names of every kind, in every format


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
    "",
]
NAMES = st.sampled_from(HOSTILE) | st.text(max_size=30)


WORSE = checked(measured(net()), SICK)


def hostile(name: str) -> Run:
    check = renamed_records(replace(WORSE, key=name, file=name), name)
    probe = Probe(name, "failed", renamed(SICK, name), (check,), name, name, 1)
    return Run((probe, replace(probe, outcome="passed")), {name: name}, (name,))


def as_junit(run: Run) -> str:
    """The properties of all probes, as pytest writes them."""
    suite = ET.Element("testsuite")
    for probe in run.probes:
        case = ET.SubElement(ET.SubElement(suite, "testcase"), "properties")
        for name, value in properties(probe.diagnosis, probe.checks):
            ET.SubElement(case, "property", name=name, value=value)
    return ET.tostring(suite, encoding="unicode")


FORMATS: dict[str, Callable[[Run], str]] = {
    "json": write_json,
    "html": html_report,
    "markdown": markdown_report,
    "github": lambda run: "\n".join(workflow_commands(run)),
    "sarif": lambda run: json.dumps(sarif_report(run, RULES)),
    "junit": as_junit,
    "terminal": lambda run: "\n".join(
        line for line, _ in report_lines(run.probes, width=80, verbose=True)
    ),
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
    if kind in ("terminal", "markdown", "github"):
        assert all(c.isprintable() or c == "\n" for c in text)
    if kind in ("terminal", "markdown"):
        for line in text.split("\n"):
            assert not line.lstrip().startswith(("::", "##["))


def with_numbers(value: Any, number: float) -> Any:
    """The same records with one number in all places that hold fractions."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
        return replace(value, **{name: with_numbers(item, number) for name, item in kept.items()})
    if isinstance(value, tuple):
        return tuple(with_numbers(item, number) for item in value)
    return number if isinstance(value, float) else value


def report_of(name: str, number: float, outcome: Any) -> Run:
    run = hostile(name)
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


def test_reports_are_the_same_with_workers(pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile(
        """
import torch
from torch import Tensor, nn

def test_one(gradhealth):
    torch.manual_seed(0)
    gradhealth.assert_healthy(nn.Linear(4, 2), torch.randn(8, 4))

def test_two(gradhealth):
    torch.manual_seed(0)
    gradhealth.assert_healthy(nn.Linear(4, 2), torch.randn(8, 4), max_output=1e-9)
"""
    )
    found = []
    for options in ([], ["-n1"]):
        file = f"out{len(options)}/deep/report.json"
        result = pytester.runpytest("-p", "no:cacheprovider", f"--gradhealth-json={file}", *options)
        result.assert_outcomes(passed=1, failed=1)
        result.stdout.fnmatch_lines([f"gradient health as json: {file}"])
        data = json.loads(Path(file).read_text())
        for probe in data["probes"]:
            probe["diagnosis"]["milliseconds"] = 0
        found.append(data)
    assert found[0] == found[1]
    assert found[0]["probes"][1]["outcome"] == "failed"
    assert found[0]["probes"][1]["message"].startswith("the outputs are")
    assert found[0]["probes"][1]["line"] == 8
    assert not any(probe["of_fixture"] for probe in found[0]["probes"])
    assert found[0]["environment"]["torch"] == torch.__version__


def test_markdown_is_appended(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import torch\ndef test_one(gradhealth):\n"
        "    gradhealth.assert_healthy(torch.nn.Linear(4, 2), torch.randn(8, 4))\n"
    )
    Path("summary.md").write_text("before\n")
    for _ in range(2):
        pytester.runpytest("--gradhealth-markdown=summary.md", "-p", "no:cacheprovider")
    text = Path("summary.md").read_text()
    assert text.startswith("before\n### Gradient health: 1 probe, healthy\n")
    assert text.count("### Gradient health") == 2


PROBING = (
    "import torch\ndef test_one(gradhealth):\n"
    "    gradhealth.assert_healthy(torch.nn.Linear(4, 2), torch.randn(8, 4))\n"
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gradhealth-json=folder"], "--gradhealth-json=folder is a folder; give the name of *"),
        (["--gradhealth-json="], "--gradhealth-json= is a folder; give the name of a file in it"),
        (["--gradhealth-html=file/x.html"], "--gradhealth-html=file/x.html: *file is not a folder"),
        (
            ["--gradhealth-json=x", "--gradhealth-html=./x"],
            "--gradhealth-html=./x is what --gradhealth-json writes; name two files",
        ),
    ],
)
def test_a_path_that_no_report_can_be_at_stops_the_run(
    pytester: pytest.Pytester, options: list[str], message: str
) -> None:
    pytester.makepyfile(PROBING)
    Path("folder").mkdir()
    Path("file").touch()
    result = pytester.runpytest("-p", "no:cacheprovider", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])


def test_a_report_that_cannot_be_written_fails_the_run_and_keeps_no_other_from_it(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(PROBING + "    import pathlib\n    pathlib.Path('gone.json').mkdir()\n")
    result = pytester.runpytest(
        "-p", "no:cacheprovider", "--gradhealth-json=gone.json", "--gradhealth-html=x.html"
    )
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["gradient health as json: gone.json was not written (*", "gradient health as html: x.html"]
    )
    assert "INTERNALERROR" not in result.stdout.str()


def test_a_run_that_never_began_leaves_the_last_report(pytester: pytest.Pytester) -> None:
    Path("kept.json").write_text("kept")
    pytester.runpytest("-p", "no:cacheprovider", "--gradhealth-json=kept.json", "nothing.py")
    assert Path("kept.json").read_text() == "kept"


def test_a_path_may_begin_at_home(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(pytester.mkdir("home")))
    monkeypatch.setenv("USERPROFILE", str(Path("home").resolve()))
    pytester.makepyfile(PROBING)
    pytester.runpytest("-p", "no:cacheprovider", "--gradhealth-json=~/x.json")
    assert Path("home/x.json").is_file()


ENDS = """
import pytest, torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

BATCH = {"inputs": torch.randn(16, 8), "targets": torch.arange(16) % 4, "loss": cross_entropy}

def net(activation, layers):
    torch.manual_seed(0)
    parts = []
    for _ in range(layers):
        parts += [nn.Linear(8, 8), activation()]
    return nn.Sequential(*parts, nn.Linear(8, 4))

@pytest.fixture
def sick(gradhealth):
    gradhealth.assert_no_vanishing(net(nn.Sigmoid, 12), **BATCH)

@pytest.fixture
def late(gradhealth):
    yield
    gradhealth.assert_no_vanishing(net(nn.Sigmoid, 12), **BATCH)

@pytest.fixture
def broken():
    yield
    raise OSError("gone")

def test_setup(sick): pass

def test_teardown(late): pass

def test_both(gradhealth, broken):
    gradhealth.assert_no_vanishing(net(nn.Sigmoid, 12), **BATCH)

def test_several(gradhealth):
    gradhealth.assert_no_vanishing(net(nn.ReLU, 2), **BATCH)
    gradhealth.assert_no_vanishing(net(nn.Sigmoid, 12), **BATCH)
"""


def test_the_message_is_there_wherever_a_check_fails_and_on_that_probe_alone(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(test_ends=ENDS)
    pytester.runpytest("-p", "no:cacheprovider", "--gradhealth-json=x.json")
    found: dict[str, list[str]] = {}
    for probe in read_report("x.json").probes:
        said = probe.message.partition(":")[0]
        found.setdefault(probe.test.partition("::")[2], []).append(said)
    assert found == {
        "test_setup": ["the gradient vanishes"],
        "test_teardown": ["the gradient vanishes"],
        "test_both": ["the gradient vanishes"],
        "test_several": ["", "the gradient vanishes"],
    }


@pytest.mark.parametrize(
    "name", ["head\n::error title=x::y", "h\x1b[31mred\x07", 'a"b\\', "x ##[error]y", "##vso[a]b"]
)
def test_no_name_gets_out_of_the_code_of_a_remedy(name: str) -> None:
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
    text = str(caught.value)
    assert "if isinstance(m, nn.Linear) and name != " in text
    assert all(character.isprintable() for character in text.replace("\n", ""))
    assert "##[" not in text
    assert "##vso[" not in text
    assert not any(line.lstrip().startswith("::") for line in text.splitlines())
    diagnosis = caught.value.diagnosis
    assert diagnosis is not None
    for treatment in diagnosis.treatments:
        ast.parse(treatment.code)


def test_files_are_from_the_top_of_the_checkout(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_WORKSPACE", str(pytester.path))
    sub = pytester.mkdir("sub")
    (sub / "pytest.ini").write_text("[pytest]\n")
    (sub / "test_one.py").write_text(PROBING)
    monkeypatch.chdir(sub)
    pytester.runpytest("-p", "no:cacheprovider", "--gradhealth-json=x.json", f"--rootdir={sub}")
    (probe,) = read_report(sub / "x.json").probes
    assert (probe.file, probe.test) == ("sub/test_one.py", "test_one.py::test_one")


def test_brackets_make_no_link_in_sarif() -> None:
    diagnosis = measured(net(nn.Sigmoid, 12))
    finding = replace(diagnosis.findings[0], message="see [this](http://evil.example)")
    probe = Probe("t", "failed", replace(diagnosis, findings=(finding,)), file="t.py")
    (result,) = sarif_report(Run((probe,)))["runs"][0]["results"]
    assert result["message"]["text"] == r"t: see \[this\](http://evil.example)"

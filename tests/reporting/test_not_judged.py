"""Where nothing can be judged, every format says so with the reason, and none says healthy."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from pytest_gradhealth import Diagnosis, Probe, Run
from pytest_gradhealth.reporting.github import workflow_commands
from pytest_gradhealth.reporting.html import html_report
from pytest_gradhealth.reporting.json_report import read_json, schema, write_json
from pytest_gradhealth.reporting.junit import properties
from pytest_gradhealth.reporting.markdown import markdown_report
from pytest_gradhealth.reporting.regression import regression
from pytest_gradhealth.reporting.sarif import sarif_report
from pytest_gradhealth.reporting.summary import verdict_line
from pytest_gradhealth.reporting.terminal import report_lines
from tests.helpers.runs import SICK, WARNS, Reader, checked, head_on_a_frozen_body, measured, net
from tests.helpers.sarif import SARIF

UNJUDGED, HEALTHY = measured(head_on_a_frozen_body()), measured(net())
REASON = "only 2 (Linear) gets a gradient, and one layer has no way for it to vanish on"
FACE = f"Sequential is not judged: {REASON} [GH101]"
ALONE = Probe("t.py::test_head", "passed", UNJUDGED, file="t.py", line=3)


def test_its_face_is_the_reason() -> None:
    where = "Sequential on cpu, loss cross_entropy, trained with Adam(lr=0.001), seed 0"
    assert str(UNJUDGED) == f"{FACE}\n\n{where}"
    assert f"nothing to judge: {REASON}" in UNJUDGED._repr_html_()
    assert "Sequential on cpu, loss cross_entropy, Adam" in UNJUDGED._repr_html_()


@pytest.mark.parametrize("width", [80, 160])
def test_the_terminal_has_a_colour_of_its_own_for_it(width: int) -> None:
    probes = (Probe("t.py::test_net", "passed", HEALTHY), ALONE)
    lines = list(report_lines(probes, width=width, verbose=False, told=False))
    assert "2 probes: 1 healthy, 1 not judged" in [text for text, _ in lines]
    (row,) = [(text, mark) for text, mark in lines if text.startswith("not judged")]
    assert row[0].split()[:3] == ["not", "judged", "-"]
    assert row[0].endswith("t.py::test_head")
    assert row[1] == {"cyan": True}
    assert lines[-2:] == [("t.py::test_head", {"bold": True}), (FACE, {"cyan": True})]


@pytest.mark.parametrize("diagnosis", [WARNS, replace(SICK, treatments=())], ids=["warns", "fails"])
def test_the_terminal_has_causes_and_pages_of_what_is_not_told_elsewhere(
    diagnosis: Diagnosis,
) -> None:
    advice = [line for line in str(diagnosis).splitlines() if re.match(r"(cause|try|rule): ", line)]
    assert {line.partition(":")[0] for line in advice} >= {"cause", "rule"}
    probes = (Probe("t.py::test_net", "passed", diagnosis), ALONE)
    lines = [text for text, _ in report_lines(probes, width=80, verbose=False, told=True)]
    said = [line for line in lines if re.match(r"(cause|try|rule): ", line)]
    assert [line[:60] for line in said] == [line[:60] for line in advice]


def test_one_line_on_a_run() -> None:
    healthy, sick = Probe("t", "passed", HEALTHY), Probe("t", "failed", SICK)
    warns = Probe("t", "passed", WARNS)
    for probes, line in (
        ((ALONE,), "1 probe: 1 not judged"),
        ((healthy, ALONE, ALONE), "3 probes: 2 not judged"),
        ((warns, ALONE), "2 probes: 1 warns, 1 not judged"),
        ((sick, ALONE), "1 of 2 probes fails, 1 not judged"),
    ):
        assert verdict_line(Run(probes)) == line


def test_markdown_lists_it_beside_the_reason() -> None:
    text = markdown_report(Run((ALONE, Probe("t.py::test_net", "passed", HEALTHY))))
    told, _, folded = text.partition("<details>")
    assert f"| `t.py::test_head` | `GH101` `nothing to judge: {REASON}` | `2` |" in told
    assert "<summary>1 probe without a complaint" in folded
    assert "test_head" not in folded


def test_html_has_a_badge_and_a_filter_for_it() -> None:
    page = html_report(Run((ALONE,)))
    elements = Reader(page).elements
    (section,) = [a for tag, a in elements if tag == "details" and "data-verdict" in a]
    assert (section["class"], section["data-verdict"]) == ("probe not-judged", "not judged")
    assert ("li", {"class": "not-judged"}) in elements
    boxes = [a["value"] for tag, a in elements if tag == "input" and a.get("name") == "verdict"]
    assert boxes == ["failure", "warning", "not judged", "healthy"]
    for rule in (".toggle", ".findings li"):
        assert f"{rule}.not-judged {{" in page
    assert page.count("--not-judged: ") == page.count("--healthy: ") == 2
    assert ("tr", {"class": "found"}) not in elements


def test_other_programs_are_told() -> None:
    run = Run((ALONE,))
    assert properties(UNJUDGED) == [
        ("gradhealth_model", "Sequential"),
        ("gradhealth_verdict", "not judged"),
        ("gradhealth_reason", f"nothing to judge: {REASON}"),
        ("gradhealth_finding", "GH101 not judged layer=2"),
    ]
    assert list(workflow_commands(run)) == [
        "::notice file=t.py,line=3,title=gradient health%3A GH101::"
        f"nothing to judge: {REASON} [GH101]"
    ]
    jsonschema: Any = pytest.importorskip("jsonschema")
    report = sarif_report(run)
    jsonschema.Draft202012Validator(SARIF).validate(report)
    (result,) = report["runs"][0]["results"]
    assert (result["level"], result["kind"]) == ("none", "notApplicable")
    text = write_json(run)
    jsonschema.Draft202012Validator(schema()).validate(json.loads(text))
    assert read_json(text).probes[0].diagnosis.findings == UNJUDGED.findings


def test_a_baseline_that_was_judged_is_failed_by_it() -> None:
    check = checked(HEALTHY, UNJUDGED)
    text = regression(check, UNJUDGED)
    assert text.startswith(f"the verdict was healthy and is not judged [regression]\n  {FACE}\n")
    worse = replace(ALONE, outcome="failed", checks=(check,))
    assert verdict_line(Run((worse,))) == "1 of 1 probe fails"
    results = sarif_report(Run((worse,)))["runs"][0]["results"]
    assert [(r["level"], r.get("kind", "fail")) for r in results][-1] == ("none", "notApplicable")
    thawed = measured(head_on_a_frozen_body().requires_grad_(True))
    (change,) = [c for c in checked(UNJUDGED, thawed).comparison.changes if c.kind == "verdict"]
    assert change.better

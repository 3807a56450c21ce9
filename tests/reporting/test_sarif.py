"""SARIF has a result for all that fails or warns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from pytest_gradhealth import Probe, Run
from pytest_gradhealth.reporting.sarif import sarif_report
from pytest_gradhealth.rules import built_in_rules
from tests.helpers.runs import measured, net
from tests.helpers.sarif import SARIF

jsonschema: Any = pytest.importorskip("jsonschema")
RULES = [(rule.code, rule.name, rule.summary) for rule in built_in_rules()]


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


def test_brackets_make_no_link_in_sarif() -> None:
    diagnosis = measured(net(nn.Sigmoid, 12))
    finding = replace(diagnosis.findings[0], message="see [this](http://evil.example)")
    probe = Probe("t", "failed", replace(diagnosis, findings=(finding,)), file="t.py")
    (result,) = sarif_report(Run((probe,)))["runs"][0]["results"]
    assert result["message"]["text"] == r"t: see \[this\](http://evil.example)"

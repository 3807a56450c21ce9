"""SARIF has a result for all that fails or warns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from pytest_gradhealth import Probe, Rule, Run
from pytest_gradhealth.reporting.sarif import sarif_report
from pytest_gradhealth.rules import built_in_rules
from pytest_gradhealth.rules.page import HOME
from tests.helpers.runs import measured, net
from tests.helpers.sarif import SARIF

jsonschema: Any = pytest.importorskip("jsonschema")
RULES = built_in_rules()


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


def test_a_rule_of_the_package_is_described_by_its_page() -> None:
    driver = sarif_report(Run(()), RULES)["runs"][0]["tool"]["driver"]
    described = {rule["id"]: rule for rule in driver["rules"]}
    for rule in RULES:
        found = described[rule.code]
        assert found["help"] == {"text": rule.page, "markdown": rule.page}
        assert found["fullDescription"]["text"] == f"{rule.summary}; it reads: {rule.reads}"
        assert found["helpUri"] == f"{HOME}/rules/{rule.code}.html"
    assert described["regression"]["helpUri"] == f"{HOME}/baselines.html"


def test_a_rule_of_ones_own_brings_its_page_and_no_address() -> None:
    rule = Rule("MY101", "large-loss", "the loss starts small", "the loss", lambda _: ())
    found = sarif_report(Run(()), [rule])["runs"][0]["tool"]["driver"]["rules"][0]
    assert found["help"]["markdown"] == rule.page
    assert "helpUri" not in found


def test_brackets_make_no_link_in_sarif() -> None:
    diagnosis = measured(net(nn.Sigmoid, 12))
    finding = replace(diagnosis.findings[0], message="see [this](http://evil.example)")
    probe = Probe("t", "failed", replace(diagnosis, findings=(finding,)), file="t.py")
    (result,) = sarif_report(Run((probe,)))["runs"][0]["results"]
    assert result["message"]["text"] == r"t: see \[this\](http://evil.example)"

"""Findings and ratios as properties in JUnit's XML."""

from __future__ import annotations

import re

from pytest_gradhealth import Run
from pytest_gradhealth.reporting.junit import properties


def test_findings_and_ratios_are_properties(run: Run) -> None:
    worse = run.probes[1]
    found = properties(worse.diagnosis, worse.checks)
    assert ("gradhealth_verdict", worse.diagnosis.verdict) in found
    assert ("gradhealth_ratio", f"{worse.diagnosis.ratio:.6g}") in found
    assert ("gradhealth_baseline", "worse test_net") in found
    assert any(name == "gradhealth_regression" for name, _ in found)
    finding = next(value for name, value in properties(run.probes[2].diagnosis) if "GH101" in value)
    assert re.fullmatch(r"GH101 failure layer=\d+ value=\S+ limit=1e-05", finding)

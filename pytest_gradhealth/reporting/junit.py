"""Findings and ratios as properties of a test case in a JUnit file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from pytest_gradhealth.baseline.check import Check
from pytest_gradhealth.formatting import shortened
from pytest_gradhealth.results.diagnosis import Diagnosis

#: Characters of a value that are told.
LONGEST = 1_000


def properties(diagnosis: Diagnosis, checks: Sequence[Check] = ()) -> list[tuple[str, str]]:
    """Return names and values for pytest's `user_properties`, all of them printable text."""
    said = _properties(diagnosis, checks)
    return [(f"gradhealth_{name}", shortened(value, LONGEST)) for name, value in said]


def _properties(diagnosis: Diagnosis, checks: Sequence[Check]) -> Iterator[tuple[str, str]]:
    yield "model", diagnosis.model
    yield "verdict", diagnosis.verdict
    if diagnosis.verdict == "not judged":
        yield from (("reason", f.message) for f in diagnosis.findings if f.severity == "not judged")
    elif not math.isnan(diagnosis.ratio):
        yield "ratio", f"{diagnosis.ratio:.6g}"
    for finding in diagnosis.findings:
        said = [finding.code, finding.severity, f"layer={finding.layer}"]
        if finding.value is not None:
            said.append(f"value={finding.value:.6g}")
        if finding.limit is not None:
            said.append(f"limit={finding.limit:.6g}")
        yield "finding", " ".join(said)
    for check in checks:
        yield "baseline", f"{check.status} {check.key}"
        for change in check.comparison.worse if check.status == "worse" else ():
            yield "regression", change.message

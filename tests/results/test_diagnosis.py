"""A diagnosis in a debugger, a list or beside a failed assert is one short line."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace

import pytest

from pytest_gradhealth.formatting import factor
from pytest_gradhealth.results.diagnosis import LONGEST_REPR
from tests.helpers.runs import SICK, WARNS, head_on_a_frozen_body, measured, net, renamed


def test_it_says_the_verdict_what_arrives_and_the_codes() -> None:
    share = factor(SICK.paths[0].arrival)
    said = f"<Diagnosis of Sequential: failure, {share} of the gradient reaches 0 (Linear), GH101>"
    assert repr(SICK) == said
    assert re.fullmatch(
        r"<Diagnosis of Sequential: warning, x0.\d+ of .* \(Linear\), GH101>", repr(WARNS)
    )
    healthy = measured(net())
    share = factor(healthy.paths[0].arrival)
    said = f"<Diagnosis of Sequential: healthy, {share} of the gradient reaches 0 (Linear)>"
    assert repr(healthy) == said
    assert repr(measured(head_on_a_frozen_body())) == "<Diagnosis of Sequential: not judged>"
    (finding,) = (f for f in SICK.findings if f.complains)
    several = [replace(finding, code=code) for code in ("GH403", "A-1", "A-1", "B-2")]
    line = repr(replace(SICK, findings=(finding, *several)))
    assert line.endswith(" reaches 0 (Linear), GH101, GH403 and 2 more>")


@pytest.mark.parametrize(
    "name", ["a\nb\x1b[2J", "##[error]", 10_000 * "n", "\ud800", "größe\u202e", ""]
)
def test_names_do_it_no_harm(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    (finding, *_) = SICK.findings
    several = tuple(replace(finding, code=f"{code}{name}") for code in range(9))
    line = repr(replace(renamed(SICK, name), findings=several))
    assert line.startswith("<Diagnosis of ")
    assert line.isprintable()
    assert line.isascii()
    assert "##[" not in line
    assert len(line) <= LONGEST_REPR

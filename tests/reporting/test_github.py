"""Annotations that GitHub shows at the lines of the tests."""

from __future__ import annotations

from torch import nn

from pytest_gradhealth import Probe, Run
from pytest_gradhealth.reporting.github import workflow_commands
from tests.helpers.runs import measured, net


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

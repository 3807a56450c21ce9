"""What is the matter with a model, and what to try: each told once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import Diagnosis, probe
from pytest_gradhealth.reporting.advice import causes
from pytest_gradhealth.results.diagnosis import Finding, Measure, Treatment
from pytest_gradhealth.rules.rule import Cause, Evidence, Rule
from tests.helpers.architectures import Apply

pytestmark = pytest.mark.usefixtures("_outside_pytest")

SATURATED = (
    "1 ({0}) is saturated: it is flat at all that comes in",
    "what comes in is too large: inputs that were not scaled, large weights or large biases",
)
SMALLER = "standardised inputs, smaller weights and biases, or a normalisation layer before it"


def saturated(activation: type[nn.Module]) -> Diagnosis:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), activation(), nn.Linear(16, 2))
    x = 1e6 * (1 + torch.rand(32, 4))
    return probe(model, x, torch.arange(32) % 2, loss=F.cross_entropy)


def told(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    return [*causes(diagnosis, [f for f in diagnosis.findings if f.severity == "failure"])]


def test_causes_with_the_same_to_try_are_told_together() -> None:
    first, second = (because.format("Tanh") for because in SATURATED)
    assert told(saturated(nn.Tanh)) == [("cause", first), ("cause", second), ("try", SMALLER)]


def test_what_is_a_part_of_what_to_try_is_not_told_again() -> None:
    first, second = (because.format("Sigmoid") for because in SATURATED)
    more = f"{SMALLER}; before a loss, none and a loss on logits"
    assert told(saturated(nn.Sigmoid)) == [("cause", first), ("cause", second), ("try", more)]


def test_causes_with_something_else_to_try_are_told_each_with_that() -> None:
    assert told(saturated(nn.Hardtanh)) == [
        ("cause", "1 (Hardtanh) cuts off all that comes in, which is out of its range"),
        ("try", "a wider range, or a soft bound (torch.tanh, F.softplus)"),
        ("cause", SATURATED[1]),
        ("try", SMALLER),
    ]


def test_a_cause_that_another_tells_with_more_is_left_out() -> None:
    dead = Cause("a is dead", "smaller biases")
    more = Cause("a is dead (a.weight); b is shut (b.weight)", "smaller biases; another b")
    assert told(
        probe(nn.Linear(4, 2), torch.randn(8, 4), rules=[failing(dead), failing(more)])
    ) == [
        ("cause", more.because),
        ("try", more.advice),
    ]


def failing(cause: Cause) -> Rule:
    def check(evidence: Evidence) -> Iterator[Finding]:
        yield rule.finding("failure", "", "it fails", profile=evidence.first)

    rule = Rule(f"XX{len(cause.because):03}", "mine", "", "", check, cause=cause)
    return rule


def test_beside_a_cure_there_is_nothing_to_try() -> None:
    diagnosis = saturated(nn.Tanh)
    cured = Treatment("mine", "cured", "GH101", Measure(), Measure(), "", "", "")
    labels = [label for label, _ in told(replace(diagnosis, treatments=(cured,)))]
    assert labels == ["cause", "cause"]


def test_outputs_that_are_infinite_have_the_cause_of_the_first_that_was() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), Apply(lambda x: torch.log(F.relu(x))))
    diagnosis = probe(model, torch.randn(8, 4), loss=Tensor.sum)
    assert {"GH203", "GH301"} <= {finding.code for finding in diagnosis.findings}
    assert told(diagnosis) == [("cause", "log of 0"), ("try", "torch.log(x.clamp_min(1e-8))")]

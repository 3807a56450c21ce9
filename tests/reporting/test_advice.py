"""What is the matter with a model, and what to try: each told once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

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


def of(layers: nn.Module, x: Tensor, **settings: Any) -> Diagnosis:
    torch.manual_seed(0)
    return probe(layers, x, torch.arange(len(x)) % 4, loss=F.cross_entropy, **settings)


def without_gain() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 4))
    nn.init.zeros_(model.get_parameter("1.weight"))
    return model


GAIN = "a random initialisation of that layer (of a normalisation, ones)"
LOG = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), Apply(torch.log))
EXP = nn.Sequential(nn.Linear(8, 4), Apply(torch.exp))


@pytest.mark.parametrize(
    ("model", "x", "advice"),
    [
        (without_gain(), torch.randn(64, 8), GAIN),
        (LOG, torch.randn(64, 8), "torch.log(x.clamp_min(1e-8))"),
        (
            EXP,
            1e3 * torch.randn(64, 8),
            "x.clamp(max=20).exp(), or stay with logarithms (torch.logsumexp, F.log_softmax)",
        ),
    ],
    ids=["gain of 0", "log of 0", "exp of much"],
)
def test_what_mends_the_operation_itself_is_told_before_a_cure_and_in_place_of_none(
    model: nn.Module, x: Tensor, advice: str
) -> None:
    diagnosis = of(model, x)
    for outcome, last in (
        ("cured", "write (mine):\n    model"),
        ("no effect", "note:   mine: why"),
    ):
        code = diagnosis.findings[0].code
        tried = Treatment("mine", outcome, code, Measure(), Measure(), "model", "why", "")  # type: ignore[arg-type]
        treated = replace(diagnosis, treatments=(tried,))
        assert ("try", advice) in told(treated)
        text = str(treated)
        assert 0 < text.index("\ntry:    ") < text.index("tried on copies")
        assert text.endswith(last)


def test_what_is_too_much_for_a_layer_is_left_to_what_was_tried() -> None:
    model = nn.Sequential(nn.Linear(8, 4), Apply(torch.square))
    diagnosis = of(model, 1e30 * torch.randn(64, 8))
    assert told(diagnosis) == [
        ("cause", "what pow returns is more than float32 holds (3.4e+38)"),
        ("try", "standardised inputs, smaller weights, or a normalisation layer before it"),
    ]
    cured = Treatment("mine", "cured", "GH301", Measure(), Measure(), "", "", "")
    assert "try" not in dict(told(replace(diagnosis, treatments=(cured,))))


def test_outputs_that_are_infinite_have_the_cause_of_the_first_that_was() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), Apply(lambda x: torch.log(F.relu(x))))
    diagnosis = probe(model, torch.randn(8, 4), loss=Tensor.sum)
    assert {"GH203", "GH301"} <= {finding.code for finding in diagnosis.findings}
    assert told(diagnosis) == [("cause", "log of 0"), ("try", "torch.log(x.clamp_min(1e-8))")]

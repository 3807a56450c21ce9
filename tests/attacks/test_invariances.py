"""The verdict and the numbers of its paths do not depend on what leaves the gradients alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.helpers.attacks import Attack, broken_by
from tests.helpers.invariances import MODELS, Case, invariances, made, plain, same, signature


@pytest.mark.parametrize("attack", list(invariances()), ids=lambda a: f"{a.name}-{a.kind}")
def test_a_verdict_stays_what_it_is(attack: Attack) -> None:
    assert broken_by(attack) == ""


def test_half_of_the_models_are_sick() -> None:
    verdicts = {name: plain(name)[0] for name in MODELS}
    assert verdicts == {
        "healthy": "healthy",
        "smooth": "healthy",
        "normalised": "healthy",
        "convolutions": "healthy",
        "vanishing": "failure",
        "exploding": "failure",
        "dead": "failure",
    }
    assert len(list(invariances())) > 120


def test_another_model_has_another_signature() -> None:
    assert not any(same(plain(a), plain(b)) for a in MODELS for b in MODELS if a != b)
    case = made("healthy")
    with torch.no_grad():
        case.model.get_submodule("layer0").get_parameter("weight").mul_(1.1)
    assert not same(signature(case.probed()), plain("healthy"))


def test_what_raises_is_no_invariance() -> None:
    def run() -> object:
        return Case(nn.Linear(1, 1), torch.ones(2, 2), torch.zeros(2)).probed().nothing  # type: ignore[attr-defined]

    assert broken_by(Attack("x", "y", lambda: 1 / 0)) == "x y: ZeroDivisionError: division by zero"
    assert broken_by(Attack("x", "y", run)) == ""

"""Parameters that get no gradient fail, unless they are frozen or wait for their turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import (
    UnreachedParameterError,
    UnusedParameterError,
    assert_all_reached,
    probe,
)
from tests.helpers.architectures import Wired, adapter
from tests.helpers.findings import said
from tests.helpers.nets import batch, mlp

cross_entropy = nn.functional.cross_entropy


class Extra(nn.Module):
    def __init__(self, use: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.extra, self.use = mlp(), nn.Linear(5, 5), use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self.extra, self.body(x))


def test_a_layer_that_is_cut_off_from_the_loss_is_unreached() -> None:
    x, y = batch()
    model = Extra(lambda layer, x: x + layer(x).detach())
    (finding,) = probe(model, x, y, loss=cross_entropy).findings
    assert (finding.code, finding.severity, finding.layer) == ("GH401", "failure", "extra")
    assert finding.message == (
        "no gradient reaches 2 parameters (extra.weight and extra.bias): cut off from the loss"
    )


def test_unrouted_experts_are_a_warning() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(20, 5) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.experts[0](x) + self.experts[2](x)
            return out

    diagnosis = probe(Experts(), batch()[0])
    assert diagnosis.verdict == "warning"
    (finding,) = diagnosis.findings
    assert finding.message == (
        "no gradient on this batch for 4 parameters (experts.1.weight, experts.1.bias,"
        " experts.3.weight and 1 more); siblings in the same list got one"
    )


def test_frozen_parameters_are_not_expected_to_get_a_gradient() -> None:
    model = mlp()
    model[0].requires_grad_(False)
    x, y = batch()
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert diagnosis.verdict == "healthy"
    assert {p.name for p in diagnosis.profile.parameters if p.state == "frozen"} == {
        "0.weight",
        "0.bias",
    }
    assert diagnosis.paths[0].first.name == "2"


def test_a_bias_before_batch_norm_is_no_finding_worth_a_warning() -> None:
    model = nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5)).double()
    x = torch.randn(16, 20, dtype=torch.float64)
    assert probe(model, x, torch.randint(0, 5, (16,)), loss=cross_entropy).verdict == "healthy"


@pytest.mark.parametrize(
    "use",
    [
        lambda m, x: m.body(x) + m.extra(x).detach(),
        lambda m, x: m.body(x) + F.one_hot(m.extra(x).argmax(-1), 5),
        lambda m, x: m.body(x) + (m.extra(x) > 0),
    ],
    ids=["detach", "argmax", "comparison"],
)
def test_a_leaf_that_was_called_and_cut_off_is_a_failure(use: Callable[..., Any]) -> None:
    x, y = batch()
    model = Wired(use, body=mlp(), extra=nn.Linear(20, 5))
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert said(diagnosis) == [("GH401", "failure", "extra")]
    assert diagnosis.findings[0].message == (
        "no gradient reaches 2 parameters (extra.weight and extra.bias): cut off from the loss"
    )
    with pytest.raises(UnreachedParameterError) as caught:
        assert_all_reached(model, x, y, loss=cross_entropy)
    assert not isinstance(caught.value, UnusedParameterError)


def test_a_composite_that_was_cut_off_is_a_failure_with_its_own_parameters() -> None:
    part = Wired(
        lambda m, x: (m.fc(x) * m.gain).detach(),
        fc=nn.Linear(20, 5),
        gain=nn.Parameter(torch.ones(5)),
    )
    x, y = batch()
    model = Wired(lambda m, x: m.body(x) + m.part(x), body=mlp(), part=part)
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert said(diagnosis) == [("GH401", "failure", "part")]


def listed() -> Any:
    return nn.ModuleList(nn.Linear(20, 5) for _ in range(3))


def named() -> Any:
    return nn.ModuleDict({f"expert_{i}": nn.Linear(20, 5) for i in range(3)})


@pytest.mark.parametrize("in_dict", [False, True], ids=["ModuleList", "ModuleDict"])
def test_idle_experts_are_a_warning(in_dict: bool) -> None:
    first = "expert_1" if in_dict else "1"
    last = "expert_2" if in_dict else "2"
    model = Wired(
        lambda m, x: m.experts["expert_0" if in_dict else 0](x),
        experts=named() if in_dict else listed(),
    )
    x, y = batch()
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert said(diagnosis)[0] == ("GH401", "warning", f"experts.{first}")
    assert diagnosis.findings[0].message == (
        f"no gradient on this batch for 4 parameters (experts.{first}.weight,"
        f" experts.{first}.bias, experts.{last}.weight and 1 more);"
        " siblings in the same list got one"
    )
    assert_all_reached(model, x, y, loss=cross_entropy)


def test_an_adapter_with_both_factors_zero_trains_nothing() -> None:
    x, y = batch()
    assert probe(adapter(1.0, 0.0), x, y, loss=cross_entropy).verdict == "not judged"
    diagnosis = probe(adapter(0.0, 0.0), x, y, loss=cross_entropy)
    assert [profile.steps for profile in diagnosis.profiles] == [0, 5]
    finding = diagnosis.findings[0]
    assert (finding.code, finding.severity, finding.message) == (
        "GH401",
        "failure",
        "exactly zero gradient for 2 parameters (A and B): nothing would be trained",
    )

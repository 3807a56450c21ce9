"""What a verdict depends on, and what it does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pytest_gradhealth import Finding, probe
from tests.helpers.architectures import adapter, zeroed
from tests.helpers.findings import codes, said
from tests.helpers.nets import batch, mlp

cross_entropy = nn.functional.cross_entropy


@pytest.mark.parametrize(
    ("hidden", "adam", "sgd"),
    [(3, "healthy", "healthy"), (11, "warning", "failure"), (16, "failure", "failure")],
)
def test_sgd_has_stricter_limits(hidden: int, adam: str, sgd: str) -> None:
    x, y = batch()
    model = mlp(nn.ReLU, hidden=hidden)
    assert probe(model, x, y, loss=cross_entropy, select=["GH101"]).verdict == adam
    strict = probe(model, x, y, loss=cross_entropy, select=["GH101"], optimizer=torch.optim.SGD)
    assert strict.verdict == sgd
    for finding in strict.findings:
        assert finding.limit_source == "default with SGD"


def test_the_verdict_does_not_depend_on_batch_order_or_names() -> None:
    x, y = batch()
    model = mlp(nn.Sigmoid, hidden=8)
    order = torch.randperm(len(y))
    plain, turned = (
        probe(model, *pair, loss=cross_entropy) for pair in [(x, y), (x[order], y[order])]
    )
    assert turned.verdict == plain.verdict
    assert turned.ratio == pytest.approx(plain.ratio, rel=1e-4)
    renamed = nn.Sequential()
    for i, layer in enumerate(model):
        renamed.add_module(f"very_{i}_other", layer)
    other = probe(renamed, x, y, loss=cross_entropy)
    assert (other.verdict, other.ratio) == (plain.verdict, plain.ratio)


def test_an_optimizer_instance_sets_the_limits_and_is_never_stepped() -> None:
    x, y = batch()
    model = mlp(nn.Sigmoid, hidden=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    diagnosis = probe(model, x, y, loss=cross_entropy, optimizer=optimizer)
    assert diagnosis.optimizer == "SGD(lr=0.1)"
    assert optimizer.state_dict()["state"] == {}


def test_user_rules_are_applied_and_can_be_left_out() -> None:
    from pytest_gradhealth import Evidence, Rule

    def check(evidence: Evidence) -> list[Finding]:
        return [rule.finding("failure", "(loss)", "no luck", profile=evidence.first)]

    rule = Rule("MY1", "luck", "needs luck", "nothing", check)
    x, y = batch()
    assert codes(probe(mlp(), x, y, loss=cross_entropy, rules=[rule])) == ["MY1"]
    assert probe(mlp(), x, y, loss=cross_entropy, rules=[rule], ignore=["MY"]).findings == ()
    chosen = probe(mlp(nn.Sigmoid, hidden=12), x, y, loss=cross_entropy, select=["GH2"])
    assert chosen.findings == ()


def exploding() -> nn.Module:
    model = mlp(hidden=8)
    for name, weight in model.named_parameters():
        if name.endswith("weight"):
            nn.init.normal_(weight, std=0.7)
    return model


NETS: dict[str, Callable[[], nn.Module]] = {
    "ReLU": mlp,
    "8 ReLU": lambda: mlp(hidden=8),
    "14 ReLU": lambda: mlp(hidden=14),
    "15 ReLU": lambda: mlp(hidden=15),
    "tanh": lambda: mlp(nn.Tanh, hidden=6),
    "6 sigmoid": lambda: mlp(nn.Sigmoid, hidden=6),
    "7 sigmoid": lambda: mlp(nn.Sigmoid, hidden=7),
    "8 sigmoid": lambda: mlp(nn.Sigmoid, hidden=8),
    "exploding": exploding,
    "zero head": lambda: nn.Sequential(mlp(), zeroed(nn.Linear(5, 5))),
    "sigmoid behind a zero head": lambda: nn.Sequential(
        mlp(nn.Sigmoid, hidden=7), zeroed(nn.Linear(5, 5))
    ),
    "adapter": lambda: adapter(1.0, 0.0),
    "dead adapter": lambda: adapter(0.0, 0.0),
}


def verdicts(name: str, scale: float, seed: int) -> list[tuple[str, str, str]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, (x, y) = NETS[name](), batch()
        diagnosis = probe(model, x, y, loss=lambda out, labels: scale * cross_entropy(out, labels))
    return [(diagnosis.verdict, "", ""), *said(diagnosis)]


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_the_verdict_does_not_depend_on_the_scale_of_the_loss(name: str, scale: float) -> None:
    for seed in range(3):
        assert verdicts(name, scale, seed) == verdicts(name, 1.0, seed)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(name=st.sampled_from(sorted(NETS)), decades=st.floats(-5, 5), seed=st.integers(0, 999))
def test_nor_on_any_other_scale(name: str, decades: float, seed: int) -> None:
    assert verdicts(name, 10**decades, seed) == verdicts(name, 1.0, seed)

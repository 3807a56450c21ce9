"""What vanishes fails, and what only seems to does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import probe
from tests.helpers.architectures import Wired
from tests.helpers.findings import codes, of, said, severities
from tests.helpers.nets import batch, mlp

cross_entropy = nn.functional.cross_entropy


def test_a_deep_sigmoid_net_vanishes_and_a_relu_net_does_not() -> None:
    x, y = batch()
    sick = probe(mlp(nn.Sigmoid, hidden=10), x, y, loss=cross_entropy)
    assert (sick.verdict, codes(sick)) == ("failure", ["GH101"])
    assert [profile.steps for profile in sick.profiles] == [0, 5]
    healthy = probe(mlp(nn.ReLU), x, y, loss=cross_entropy)
    assert (healthy.verdict, healthy.findings) == ("healthy", ())
    assert [profile.steps for profile in healthy.profiles] == [0]


def test_a_net_of_dead_units_is_unreached_and_vanished() -> None:
    model = mlp(nn.ReLU, hidden=2)
    model[2].register_parameter("bias", nn.Parameter(torch.full((32,), -100.0)))
    x, y = batch()
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert codes(diagnosis) == ["GH101", "GH401"]
    assert diagnosis.findings[0].layer == "2"


def test_a_softmax_over_one_unit_is_found() -> None:
    model = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 1), nn.Softmax(dim=-1))
    x, _ = batch()
    diagnosis = probe(model, x, torch.rand(16, 1), loss=nn.functional.mse_loss)
    assert codes(diagnosis) == ["GH101", "GH401"]


def test_a_loss_that_sends_nothing_back_fails_and_a_perfect_fit_warns() -> None:
    x, _ = batch()
    constant = probe(mlp(), x, loss=lambda y: y.clamp(50, 60).mean())
    assert "GH101" in codes(constant)
    fitted = probe(mlp(), x, loss=lambda y: (y - 1000).relu().sum())
    assert "GH101" in codes(fitted, "warning")


class PositionBias(nn.Module):
    """A trunk, and a side branch that computes the same whatever the batch."""

    def __init__(self, data: bool) -> None:
        super().__init__()
        self.trunk, self.head = nn.Linear(20, 16), nn.Linear(16, 5)
        self.bias = mlp(nn.Sigmoid, hidden=12, width=16, inputs=16, classes=16)
        self.register_buffer("positions", torch.randn(1, 16))
        self.data = data

    def forward(self, x: Tensor) -> Tensor:
        positions = self.get_buffer("positions")
        side = self.bias(x[:, :16] if self.data else positions)
        out: Tensor = self.head(self.trunk(x) + side)
        return out


@pytest.mark.parametrize(("data", "verdict"), [(False, "healthy"), (True, "failure")])
def test_only_sources_that_carry_data_are_judged(data: bool, verdict: str) -> None:
    x, y = batch()
    diagnosis = probe(PositionBias(data), x, y, loss=cross_entropy)
    assert diagnosis.verdict == verdict
    assert {path.first.name: path.judged for path in diagnosis.paths} == {
        "bias.0": data,
        "trunk": True,
    }


def own_loss(gate: Any, body: nn.Module | None = None) -> Wired:
    """A model that computes its own loss behind a gate."""
    return Wired(
        lambda m, x, y: cross_entropy(m.gate * m.body(x), y), body=body or mlp(), gate=gate
    )


def test_a_loss_that_stays_silent_fails() -> None:
    diagnosis = probe(own_loss(0.0), batch())
    assert [profile.steps for profile in diagnosis.profiles] == [0, 5]
    finding = of(diagnosis, "GH101")[0]
    assert (finding.severity, finding.layer) == ("failure", "body.6")
    assert finding.message == (
        "no gradient leaves the loss: it is exactly zero at body.6 (Linear) already;"
        " the loss is 1.6"
    )


def test_a_loss_that_wakes_up_is_healthy() -> None:
    model = own_loss(nn.Parameter(torch.zeros(())))
    diagnosis = probe(model, batch())
    assert diagnosis.profiles[0].paths[0].last.norm == 0
    assert diagnosis.verdict == "healthy", diagnosis.findings
    asleep = probe(model, batch(), confirm_steps=0)
    assert severities(asleep, "GH101") == ["failure"]


def test_a_vanishing_body_behind_a_loss_that_wakes_up_fails() -> None:
    def deep(gate: float) -> Wired:
        return own_loss(nn.Parameter(torch.tensor(gate)), mlp(nn.Sigmoid, hidden=12))

    assert severities(probe(deep(1.0), batch()), "GH101") == ["failure"]
    assert severities(probe(deep(0.0), batch()), "GH101") == ["failure"]


def positioned(data: bool) -> Wired:
    """Two trunks and a table of positions (or a third trunk) behind a factor of 1e-4."""
    return Wired(
        lambda m, a, b: m.head(
            m.left(a) + m.right(b) + 1e-4 * m.table(a if data else torch.ones(1, 20))
        ),
        left=nn.Linear(20, 32),
        right=nn.Linear(20, 32),
        table=nn.Linear(20, 32),
        head=nn.Linear(32, 5),
    )


@pytest.mark.parametrize("data", [False, True])
def test_a_path_without_data_raises_no_warning(data: bool) -> None:
    (a, y), (b, _) = batch(), batch()
    diagnosis = probe(positioned(data), (a, b), y, loss=cross_entropy)
    side = next(p for p in diagnosis.profile.paths if p.first.name == "table")
    assert -5 < side.vanishing < -3
    assert side.judged is data
    assert said(diagnosis) == ([("GH101", "warning", "table")] if data else [])


def slope_of(m: Any, x: Tensor) -> Tensor:
    """What is made of gradients alone, as forces are."""
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(m.body(x).sum(), x, create_graph=True)
    return slope


def head_on(body: nn.Module, **parts: nn.Module) -> Wired:
    return Wired(lambda m, x: m.head(m.body(x)), body=body.requires_grad_(False), **parts)


def two_embeddings() -> Wired:
    return Wired(
        lambda m, x: (m.user(x.argmax(1)), m.item(x.argmin(1))),
        user=nn.Embedding(20, 4),
        item=nn.Embedding(20, 4),
    )


ONE = "only head (Linear) gets a gradient, and one layer has no way for it to vanish on"
#: Networks without two layers to compare on any path, and why they have none.
UNJUDGED: dict[str, tuple[Callable[[], Wired], str]] = {
    "a head on a frozen body": (lambda: head_on(mlp(), head=nn.Linear(5, 2)), ONE),
    "a head on statistics": (lambda: head_on(nn.BatchNorm1d(20), head=nn.Linear(20, 2)), ONE),
    "logistic regression": (lambda: Wired(lambda m, x: m.head(x), head=nn.Linear(20, 2)), ONE),
    "two embeddings": (
        two_embeddings,
        "the gradient gets to user (Embedding) and item (Embedding) with no other layer on the way",
    ),
    "a gradient around the outputs": (
        lambda: Wired(slope_of, body=mlp(nn.ReLU, hidden=1)),
        "the weights of body.0 (Linear) get a gradient that does not come through its output, as"
        " where the loss is made of gradients",
    ),
    "a penalty of one layer": (
        lambda: Wired(lambda m, x: slope_of(m, x).norm(), body=nn.Linear(20, 2)),
        "no layer's output gets a gradient",
    ),
    "no finite number": (
        lambda: Wired(lambda m, x: (m.head(m.body(x)) - 1e3).log(), body=mlp(), head=mlp(inputs=5)),
        "what gradient gets to body.0 (Linear) is no finite number",
    ),
}


def product(outputs: Any) -> Tensor:
    one, *others = outputs if isinstance(outputs, tuple) else (outputs,)
    for other in others:
        one = one * other
    return torch.as_tensor(one).square().mean()


@pytest.mark.parametrize("name", UNJUDGED)
def test_where_there_is_nothing_to_judge_the_reason_is_the_verdict(name: str) -> None:
    build, reason = UNJUDGED[name]
    diagnosis = probe(build(), batch()[0], loss=product, select=["GH101"])
    assert [(f.severity, f.message) for f in diagnosis.findings] == [
        ("not judged", f"nothing to judge: {reason}")
    ]
    assert diagnosis.verdict == "not judged"


def test_nobody_is_told_that_has_not_asked() -> None:
    x, y = batch()
    assert probe(nn.Linear(20, 5), x, y, loss=cross_entropy, select=["GH3"]).verdict == "healthy"
    loud = probe(nn.Linear(20, 5), 1e6 * x, y, loss=cross_entropy)
    assert (loud.verdict, loud.findings[0].code) == ("failure", "GH203")
    assert [f.severity for f in loud.of(["GH101"])] == ["info"]
    assert "nothing to judge" not in str(loud)

"""A trunk that feeds several outputs is judged up to all of them, taken for one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from pytest_gradhealth import Diagnosis, probe
from pytest_gradhealth.results.path import GradientPath
from tests.helpers.architectures import Wired
from tests.helpers.findings import codes
from tests.helpers.nets import mlp

X, Y = torch.randn(16, 20), torch.randint(5, (16,))


def trunk_of(diagnosis: Diagnosis) -> GradientPath:
    return diagnosis.profile.judged_paths[0]


def apart(outputs: tuple[Tensor, ...], targets: Tensor) -> Tensor:
    first, *others = outputs
    return cross_entropy(first, targets) + sum(other.square().mean() for other in others)


def joined(outputs: Tensor, targets: Tensor) -> Tensor:
    return apart((outputs[:, :5], outputs[:, 5:]), targets)


def inside(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs


def sums(m: Any, x: Tensor) -> Tensor:
    """A residual trunk, no sum of which a module returns."""
    hidden = m.stem(x)
    for block in m.blocks:
        hidden = hidden + block(hidden)
    return torch.as_tensor(hidden)


#: Ways to write a trunk with two heads, and the loss that goes with each.
SPELLINGS: dict[str, tuple[Callable[[Any, Tensor], Any], Callable[[Any, Tensor], Tensor]]] = {
    "a tuple": (lambda m, h: (m.left(h), m.right(h)), apart),
    "one tensor": (lambda m, h: torch.cat([m.left(h), m.right(h)], 1), joined),
    "the loss in the forward": (lambda m, h: apart((m.left(h), m.right(h)), Y), inside),
}


def blocks(build: Callable[[], nn.Module], number: int = 3) -> nn.ModuleList:
    return nn.ModuleList(build() for _ in range(number))


def wide() -> nn.Module:
    layer = nn.Linear(20, 20, bias=False)
    nn.init.normal_(layer.weight, std=20.0)
    return layer


def quiet() -> nn.Module:
    return nn.Sequential(nn.LayerNorm(20), nn.Linear(20, 20), nn.GELU(), nn.Linear(20, 20))


#: Trunks without an output of a module at their end, and what is wrong with them.
TRUNKS: dict[str, tuple[Callable[[Any, Tensor], Tensor], dict[str, Any], str]] = {
    "residual": (sums, {"stem": nn.Linear(20, 20), "blocks": blocks(quiet)}, ""),
    "residual, exploding": (sums, {"stem": nn.Linear(20, 20), "blocks": blocks(wide)}, "GH201"),
    "residual behind sigmoids": (
        lambda m, x: sums(m, m.body(x)),
        {
            "body": mlp(nn.Sigmoid, hidden=11, classes=20),
            "stem": nn.Linear(20, 20),
            "blocks": blocks(quiet),
        },
        "GH101",
    ),
    "a layer and a function": (lambda m, x: m.stem(x).relu(), {"stem": nn.Linear(20, 20)}, ""),
    "a layer": (lambda m, x: m.stem(x), {"stem": nn.Linear(20, 20)}, ""),
    "a dead function": (
        lambda m, x: (m.stem(x) - 1e3).relu(),
        {"stem": nn.Linear(20, 20)},
        "GH101",
    ),
    "two towers in one": (
        lambda m, x: m.one(x) * m.two(x).sigmoid(),
        {"one": mlp(hidden=2, classes=20), "two": mlp(hidden=2, classes=20)},
        "",
    ),
}


@pytest.mark.parametrize("name", TRUNKS)
def test_a_trunk_with_two_heads_has_one_verdict_however_it_is_written(name: str) -> None:
    trunk, modules, code = TRUNKS[name]
    heads = {"left": nn.Linear(20, 5), "right": nn.Linear(20, 3)}
    found = {}
    for spelling, (outputs, loss) in SPELLINGS.items():
        model = Wired(lambda m, x, made=outputs: made(m, trunk(m, x)), **modules, **heads)
        diagnosis = probe(model, X, Y, loss=loss)
        assert (code in codes(diagnosis)) if code else not codes(diagnosis), diagnosis
        path = trunk_of(diagnosis)
        found[spelling] = (path.first.label, path.entry.norm, path.last.norm, path.last.numel)
    first, *others = found.values()
    for other in others:
        assert other[0] == first[0]
        assert other[1:] == pytest.approx(first[1:], rel=1e-4)


def test_its_end_is_all_outputs_that_it_leads_to() -> None:
    def forward(m: Any, x: Tensor) -> tuple[Tensor, ...]:
        hidden = m.stem(x)
        return m.left(hidden), m.right(hidden), m.alone(x)

    def loss(outputs: tuple[Tensor, ...], targets: Tensor) -> Tensor:
        return apart(outputs[:2], targets) + 1e6 * outputs[2].square().sum()

    ends = {"left": nn.Linear(20, 5), "right": nn.Linear(20, 3), "alone": mlp(hidden=2)}
    diagnosis = probe(Wired(forward, stem=nn.Linear(20, 20), **ends), X, Y, loss=loss)
    norms = {o.name: o.norm or 0.0 for o in diagnosis.profile.outputs}
    last, other = (path.last for path in diagnosis.profile.judged_paths)
    assert [last.title, other.title] == ["(outputs) (left and right)", "alone.4 (Linear)"]
    assert last.norm == pytest.approx(math.hypot(norms["left"], norms["right"]))
    assert last.shape == (last.numel,) == (16 * 8,)


@pytest.mark.parametrize("sick", [False, True], ids=["healthy", "sick"])
def test_what_a_saturated_end_loses_at_once_is_no_depth(sick: bool) -> None:
    """A variational autoencoder of a graph, whose edges are all but certain at first."""

    def forward(m: Any, x: Tensor) -> Tensor:
        hidden = m.trunk(x).relu()
        mean, spread = 30 * m.mean(hidden), m.spread(hidden)
        codes = mean + torch.randn_like(mean) * spread.exp()
        missing = -(1 - m.edges(codes @ codes.T) + 1e-15).log().mean()
        return torch.as_tensor(
            missing - 0.5 * (1 + 2 * spread - mean**2 - spread.exp() ** 2).mean()
        )

    model = Wired(
        forward,
        trunk=mlp(nn.Sigmoid if sick else nn.Tanh, hidden=11 if sick else 2, classes=20),
        mean=nn.Linear(20, 8),
        spread=nn.Linear(20, 8),
        edges=nn.Sigmoid(),
    )
    diagnosis = probe(model, X)
    end = next(o for o in diagnosis.profile.outputs if o.name == "edges")
    assert (end.norm or 0) > 1e9
    assert ("GH101" in codes(diagnosis)) == sick, diagnosis


class Potential(nn.Module):
    """Energies and the forces that are their slope."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, places: Tensor) -> tuple[Tensor, Tensor]:
        places = places.detach().requires_grad_()
        energy = self.body(places)
        (slope,) = torch.autograd.grad(energy.sum(), places, create_graph=True)
        return energy, -slope


FORCES = torch.randn(16, 1), torch.randn(16, 20)


def of_both(outputs: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
    return mse_loss(outputs[0], targets[0]) + mse_loss(outputs[1], targets[1])


def silenced(body: nn.Sequential) -> nn.Sequential:
    last = body[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    return body


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (mlp(nn.SiLU, hidden=3, classes=1), ""),
        (silenced(mlp(nn.SiLU, hidden=3, classes=1)), ""),
        (mlp(nn.Tanh, hidden=2, classes=1), ""),
        (mlp(nn.Sigmoid, hidden=11, classes=1), "GH101"),
    ],
    ids=["healthy", "starts at zero", "tanh", "sick"],
)
def test_energies_and_forces_are_two_outputs(body: nn.Module, code: str) -> None:
    diagnosis = probe(Potential(body), X, FORCES, loss=of_both)
    assert {*codes(diagnosis)} == ({code} if code else set()), diagnosis
    assert trunk_of(diagnosis).first.label == "body.0"


def test_forces_alone_do_not_feel_the_last_constant() -> None:
    diagnosis = probe(
        Potential(mlp(nn.SiLU, hidden=2, classes=1)),
        X,
        FORCES[1],
        loss=lambda outputs, target: mse_loss(outputs[1], target),
    )
    assert diagnosis.verdict == "healthy"
    assert [f.message for f in diagnosis.of(["GH405"])] == [
        "the loss does not depend on body.4.bias (1 parameter): it is made of gradients, which"
        " constants do not change"
    ]

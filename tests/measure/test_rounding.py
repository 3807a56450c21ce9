"""What rounding leaves of a gradient that is zero is told from a small gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, normalize

from pytest_gradhealth import UnreachedParameterError, assert_all_reached, probe
from pytest_gradhealth.measure.rounding import rounding
from pytest_gradhealth.subject.subject import Subject
from tests.helpers.architectures import Wired
from tests.helpers.findings import codes
from tests.helpers.nets import mlp

X, Y = torch.randn(64, 20), torch.randn(64, 1)


def beside_a_skip(*constant: nn.Module, width: int = 1) -> nn.Module:
    """A body whose last layer computes the same whatever comes in, beside a linear skip."""
    body = nn.Sequential(*mlp(hidden=2, classes=width), *constant)
    return Wired(
        lambda m, x: m.body(x).sum(1, keepdim=True) + m.skip(x), body=body, skip=nn.Linear(20, 1)
    )


class Centred(nn.Module):
    """What is left of one number when its mean is taken away, blown up."""

    def __init__(self, gain: float = 1e2) -> None:
        super().__init__()
        self.scale, self.gain = nn.Parameter(torch.ones(1)), gain

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)) * self.gain * self.scale + 1.0


CONSTANT: dict[str, Callable[[], nn.Module]] = {
    "layer norm over one feature": lambda: beside_a_skip(nn.LayerNorm(1)),
    "group norm of groups of one": lambda: beside_a_skip(nn.GroupNorm(3, 3), width=3),
    "one number less its mean": lambda: beside_a_skip(Centred()),
    "softmax over one unit": lambda: beside_a_skip(nn.Softmax(dim=1)),
}


@pytest.mark.parametrize("name", CONSTANT)
def test_what_nothing_gets_through_fails_though_rounding_does(name: str) -> None:
    model = CONSTANT[name]()
    diagnosis = probe(model, X, Y, loss=mse_loss)
    assert "GH101" in codes(diagnosis), diagnosis
    assert "exactly zero" in diagnosis.findings[0].message
    with pytest.raises(UnreachedParameterError):
        assert_all_reached(model, X, Y, loss=mse_loss, remedy_budget=0)


class Normal(nn.Module):
    """Over one feature, that is its sign."""

    def forward(self, x: Tensor) -> Tensor:
        return normalize(x, dim=1)


#: Parts in which nothing gets through, of 16 features.
SHUT: dict[str, Callable[[], nn.Module]] = {
    "layer norm": lambda: nn.LayerNorm(1),
    "group norm": lambda: nn.GroupNorm(1, 1),
    "normalize": Normal,
    "centred": Centred,
}


def added(m: Any, x: Tensor) -> Tensor:
    hidden = m.stem(x).relu()
    return m.skip(hidden) + m.part(hidden)  # type: ignore[no-any-return]


def joined(m: Any, x: Tensor) -> Tensor:
    hidden = m.stem(x).relu()
    return m.head(torch.cat([m.skip(hidden), m.part(hidden)], 1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", SHUT)
@pytest.mark.parametrize("use", [added, joined])
def test_nor_is_a_branch_behind_a_stem_healthy(name: str, use: Any) -> None:
    def part(constant: nn.Module) -> nn.Module:
        return nn.Sequential(mlp(hidden=1, inputs=16, classes=1), constant, nn.Linear(1, 4))

    ends = {"stem": nn.Linear(20, 16), "skip": nn.Linear(16, 4), "head": nn.Linear(8, 4)}
    model = Wired(use, **ends, part=part(SHUT[name]()))
    wanted = X[:, :4]
    diagnosis = probe(model, X, wanted, loss=mse_loss, ignore=["GH405"])
    (finding,) = [f for f in diagnosis.findings if f.complains]
    assert (finding.code, finding.severity) == ("GH401", "warning")
    assert "(part.0.0.weight, part.0.0.bias, part.0.2.weight" in finding.message
    with pytest.raises(UnreachedParameterError):
        assert_all_reached(model, X, wanted, loss=mse_loss, ignore=["GH405"], remedy_budget=0)
    alive = Wired(use, **ends, part=part(nn.Tanh()))
    assert probe(alive, X, wanted, loss=mse_loss, ignore=["GH405"]).verdict == "healthy"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["layer norm", "group norm", "centred"])
def test_nor_in_more_or_fewer_digits(name: str, dtype: torch.dtype) -> None:
    part = nn.Sequential(mlp(hidden=1, inputs=16, classes=1), SHUT[name](), nn.Linear(1, 4))
    ends = {"stem": nn.Linear(20, 16), "skip": nn.Linear(16, 4)}
    model = Wired(added, **ends, part=part).to(dtype)
    diagnosis = probe(model, X.to(dtype), X[:, :4].to(dtype), loss=mse_loss)
    assert codes(diagnosis, "warning") == ["GH401"], diagnosis


def test_small_scales_of_branches_are_no_rounding() -> None:
    """Layer scales of 1e-5 let a branch learn little by little."""
    model = Wired(
        lambda m, x: m.head(m.stem(x) + m.scale * m.branch(m.stem(x))),
        stem=nn.Linear(20, 16),
        branch=mlp(inputs=16, classes=16),
        head=nn.Linear(16, 1),
        scale=nn.Parameter(torch.full((16,), 1e-5)),
    )
    diagnosis = probe(model, X, Y, loss=mse_loss)
    assert diagnosis.verdict == "healthy", diagnosis
    assert not [p for p in diagnosis.profile.parameters if p.state == "zero"]


def test_what_one_step_has_woken_is_awake_beside_what_rounding_is_taken_out_of() -> None:
    model = Wired(
        lambda m, x: m.sick(x) + (torch.rand(()) < 0.5) * m.now_and_then(x),
        sick=CONSTANT["layer norm over one feature"](),
        now_and_then=nn.Linear(20, 1),
    )
    first, second = probe(model, X, Y, loss=mse_loss, seeds=[1]).profiles
    for look in (first, second):  # which draws the same numbers
        silent = {p.module for p in look.parameters if p.state == "zero"}
        assert "now_and_then" in silent
    assert {name.partition(".")[0] for name in second.awake} == {"now_and_then", "sick"}
    assert not any(name.startswith("sick.body.0") for name in second.awake)


def subject(model: nn.Module) -> Subject:
    return Subject(model, X, Y, mse_loss, torch.device("cpu"))


def test_only_what_does_not_grow_with_the_loss_is_rounding() -> None:
    model = beside_a_skip(nn.LayerNorm(1))
    torch.nn.init.constant_(model.body[-1].weight, 0.3)  # type: ignore[index, union-attr]
    outputs = rounding(subject(model), seed=0)
    assert {name for name, _, _ in outputs} == {f"body.{place}" for place in range(5)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
def test_small_gradients_are_no_rounding(dtype: torch.dtype, scale: float) -> None:
    model = mlp(nn.Sigmoid, hidden=8, classes=1).to(dtype)
    seen = Subject(
        model, X.to(dtype), Y.to(dtype), lambda o, t: scale * mse_loss(o, t), torch.device("cpu")
    )
    assert not rounding(seen, seed=0)


def test_a_state_that_each_forward_moves_is_no_rounding() -> None:
    layers = [nn.utils.parametrizations.spectral_norm(nn.Linear(20, 20)) for _ in range(3)]
    model = nn.Sequential(*layers, nn.Linear(20, 1))
    assert not rounding(subject(model), seed=0)


class Gated(nn.Module):
    """A body behind a head that starts at zero, in few bits or with a backward of its own."""

    def __init__(self, between: Callable[[Tensor], Tensor], *, half: bool = False) -> None:
        super().__init__()
        self.body, self.norm, self.head = (
            mlp(hidden=2, classes=32),
            nn.LayerNorm(32),
            nn.Linear(32, 4),
        )
        nn.init.zeros_(self.head.weight)
        self.between, self.few_bits = between, half

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.few_bits):
            answer: Tensor = self.head(self.norm(self.between(self.body(x))))
        return answer.float()


class Cut(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Any:
        return gradient.clamp(-1e-4, 1e-4)


class Levelled(Cut):
    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Any:
        return gradient / gradient.norm().clamp(min=1e-30)


@pytest.mark.parametrize(
    ("between", "half"),
    [(torch.relu, True), (torch.tanh, True), (Cut.apply, False), (Levelled.apply, False)],
    ids=["bfloat16", "bfloat16, tanh", "clamped", "normalised"],
)
def test_what_no_multiple_of_the_loss_changes_alike_may_be_much(
    between: Callable[[Tensor], Tensor], half: bool
) -> None:
    model, labels = Gated(between, half=half), torch.arange(64) % 4
    diagnosis = assert_all_reached(model, X, labels, loss=cross_entropy, remedy_budget=0)
    assert diagnosis.verdict == "healthy", diagnosis

"""What the first look fails is looked at again after steps of the user's optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import probe
from tests.helpers.architectures import ReZero, Wired, ZeroHead, lora_net, zeroed
from tests.helpers.findings import codes
from tests.helpers.nets import batch, mlp
from tests.helpers.refusals import check, raising, refusal

cross_entropy = nn.functional.cross_entropy


class ZeroGamma(nn.Module):
    """Residual blocks whose last normalisation starts at zero (Goyal et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(20, 16), nn.Linear(16, 5)
        self.layer1 = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.BatchNorm1d(16))
            for _ in range(3)
        )
        for block in self.layer1:
            nn.init.zeros_(block[3].weight)  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.layer1:
            x = x + block(x)
        out: Tensor = self.head(x)
        return out


@pytest.mark.parametrize("optimizer", [None, torch.optim.SGD])
@pytest.mark.parametrize(
    "build",
    [lambda: ZeroHead(mlp()), ReZero, ZeroGamma, lora_net],
    ids=["zero head", "ReZero", "zero gamma", "LoRA"],
)
def test_gates_that_start_at_zero_are_healthy(
    build: Callable[[], nn.Module], optimizer: type[torch.optim.Optimizer] | None
) -> None:
    x, y = batch()
    diagnosis = probe(build, x, y, loss=cross_entropy, optimizer=optimizer)
    assert diagnosis.verdict == "healthy", diagnosis.findings


def test_a_vanishing_body_behind_a_zero_head_is_still_found() -> None:
    x, y = batch()
    diagnosis = probe(ZeroHead(mlp(nn.Sigmoid, hidden=12)), x, y, loss=cross_entropy)
    assert "GH101" in codes(diagnosis)


def test_an_adapter_with_both_factors_zero_never_wakes_up() -> None:
    x, y = batch()
    diagnosis = probe(lora_net(both_zero=True), x, y, loss=cross_entropy)
    assert codes(diagnosis) == ["GH101", "GH401"]


def test_without_confirm_steps_the_first_look_stands() -> None:
    x, y = batch()
    diagnosis = probe(ZeroHead(mlp()), x, y, loss=cross_entropy, confirm_steps=0)
    assert diagnosis.verdict == "failure"
    assert [profile.steps for profile in diagnosis.profiles] == [0]


def test_the_confirm_steps_are_those_of_the_users_optimizer() -> None:
    """With a step size of zero nothing wakes up; with the default everything does."""
    x, y = batch()
    model = ZeroHead(mlp())
    asleep = probe(model, x, y, loss=cross_entropy, optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    assert asleep.verdict == "failure"
    assert probe(model, x, y, loss=cross_entropy).verdict == "healthy"


def test_lbfgs_confirms_too() -> None:
    x, y = batch()
    diagnosis = probe(ZeroHead(mlp()), x, y, loss=cross_entropy, optimizer=torch.optim.LBFGS)
    assert diagnosis.verdict == "healthy"
    assert len(diagnosis.profiles) == 2


@pytest.mark.parametrize("optimizer", [None, torch.optim.Adam, torch.optim.SGD])
def test_two_inputs_joined_before_a_zero_layer_are_healthy(optimizer: Any) -> None:
    """The output carries no data at first, and is the end of both paths all the same."""
    model = Wired(
        lambda m, a, b: m.last(m.join(m.left(a) + m.right(b)).relu()),
        left=nn.Linear(20, 32),
        right=nn.Linear(20, 32),
        join=nn.Linear(32, 32),
        last=zeroed(nn.Linear(32, 5)),
    )
    (a, y), (b, _) = batch(), batch()
    diagnosis = probe(model, (a, b), y, loss=cross_entropy, optimizer=optimizer)
    assert diagnosis.verdict == "healthy", diagnosis.findings
    assert len(diagnosis.profile.judged_paths) == 2
    assert {path.last.norm > 0 for path in diagnosis.profiles[0].judged_paths} == {True}


def test_a_second_look_is_refused_in_the_same_words() -> None:
    x, y = batch()
    calls: list[int] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(1)
        return cross_entropy(outputs, targets) if len(calls) < 3 else raising()

    check(
        refusal(mlp(nn.Sigmoid, hidden=10), x, y, loss=loss),
        "loss loss raised KeyError: 'nothing'\n  it was called with outputs: (16, 5) float32;"
        " targets: (16,) int64",
        KeyError,
    )

"""Steps on a copy are the user's own, and leave everything as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import LambdaLR

from pytest_gradhealth import ProbeError, assert_no_exploding_update, probe
from tests.helpers.findings import codes
from tests.helpers.nets import batch, constant, mlp
from tests.helpers.notes import Notes
from tests.helpers.state import content, unchanged
from tests.helpers.steps import by_hand, lasso, made, sgd, steps_of

cross_entropy = nn.functional.cross_entropy


def test_the_second_look_is_after_steps_with_the_clipping_and_the_penalty_declared() -> None:
    x, y = batch()
    x = x.double()
    model = mlp(nn.Sigmoid, hidden=10).double()
    looks = {}
    for name, clip, penalty in (("bare", None, None), ("full", 0.05, lasso)):
        trained, _ = by_hand(model, x, y, sgd(0.1), clip, penalty, steps=5)
        diagnosis = probe(
            model,
            x,
            y,
            loss=cross_entropy,
            optimizer=sgd(0.1),
            clip=clip,
            regularizer=penalty,
            select=["GH101"],
        )
        second = diagnosis.confirmation
        assert second is not None
        looks[name] = {p.name: p.norm for p in second.parameters}
        for parameter, norm in looks[name].items():
            assert norm == pytest.approx(trained.get_parameter(parameter).norm().item(), rel=1e-9)
    assert looks["bare"] != looks["full"]


def test_confirm_steps_clip_and_penalise_as_well() -> None:
    clipped, penalised = Notes[int](), Notes[int]()

    def clip(parameters: list[nn.Parameter]) -> None:
        clipped.append(len(parameters))

    def penalty(model: nn.Module) -> Any:
        penalised.append(1)
        return lasso(model)

    x, y = batch()
    diagnosis = probe(
        mlp(nn.Sigmoid, hidden=10), x, y, loss=cross_entropy, clip=clip, regularizer=penalty
    )
    assert [profile.steps for profile in diagnosis.profiles] == [0, 5]
    assert list(clipped) == [22] * (10 + 5)
    assert len(penalised) == 1 + 10 + 5 + 1


@pytest.mark.parametrize("rate", [0.01, 1e6], ids=["healthy", "sick"])
@pytest.mark.parametrize("kind", ["instance", "factory"])
def test_everything_of_the_caller_is_as_it_was(kind: str, rate: float) -> None:
    x, y = batch()
    model = nn.Sequential(*mlp(), nn.BatchNorm1d(5), nn.Dropout(0.3))
    loss = nn.CrossEntropyLoss(weight=torch.ones(5))
    instance = SGD(model.parameters(), lr=0.01, momentum=0.9)
    loss(model(x), y).backward()
    instance.step()
    instance.param_groups[0]["lr"] = rate
    model[0].register_forward_hook(lambda *_: None)
    model.get_parameter("0.weight").register_hook(lambda g: g)  # type: ignore[no-untyped-call]
    bias: Any = model.get_parameter("0.bias")
    bias.register_post_accumulate_grad_hook(lambda _: None)
    instance.register_step_post_hook(lambda *_: pytest.fail("the instance was stepped"))
    before = content(instance.state), content(instance.param_groups)
    with unchanged(model, loss, x, y):
        diagnosis = probe(
            model,
            x,
            y,
            loss=loss,
            optimizer=instance if kind == "instance" else sgd(rate, momentum=0.9),
            clip=lambda ps: nn.utils.clip_grad_norm_(ps, 1.0),
            regularizer=lasso,
        )
    assert (content(instance.state), content(instance.param_groups)) == before
    assert ("GH202" in codes(diagnosis)) == (rate > 1)


def test_an_error_in_the_middle_of_the_steps_leaves_everything_as_it_was() -> None:
    calls: list[int] = []

    def clip(parameters: list[nn.Parameter]) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise ZeroDivisionError("of no use")

    x, y = batch()
    model = nn.Sequential(*mlp(), nn.BatchNorm1d(5), nn.Dropout(0.3))
    optimizer = Adam(model.parameters())
    with unchanged(model, x, y), pytest.raises(ProbeError, match="clip raised ZeroDivisionError"):
        probe(model, x, y, loss=cross_entropy, optimizer=optimizer, clip=clip)
    assert optimizer.state == {}


def test_two_runs_of_a_net_with_dropout_make_the_same_steps() -> None:
    x, y = batch()
    model = nn.Sequential(*mlp(), nn.Dropout(0.5))
    first = probe(model, x, y, loss=cross_entropy, clip=1.0)
    torch.manual_seed(12345)
    again = probe(model, x, y, loss=cross_entropy, clip=1.0)
    assert made(first) == made(again)
    assert len({update.loss for update in made(first)}) == 10


def test_every_step_draws_random_numbers_of_its_own() -> None:
    x, y = batch()
    still = probe(
        nn.Sequential(*mlp(), nn.Dropout(0.5)),
        x,
        y,
        loss=cross_entropy,
        optimizer=sgd(1e-30),
        clip=1.0,
    )
    assert len({update.loss for update in made(still)}) == 10


def test_an_optimizer_whose_step_takes_no_closure_is_stepped_after_one() -> None:
    class Plain(SGD):
        def step(self) -> None:  # type: ignore[override]
            super().step()

    plain = steps_of(constant(), lambda ps: Plain(ps, lr=0.25, momentum=0.5), 1.0)
    assert plain == steps_of(constant(), sgd(0.25, momentum=0.5), 1.0)


def test_an_optimizer_that_fails_in_its_step_is_named() -> None:
    class Broken(SGD):
        def step(self, closure: Any = None) -> Any:
            raise KeyError("momentum")

    x, y = batch()
    with pytest.raises(ProbeError) as caught:
        assert_no_exploding_update(mlp(), x, y, loss=cross_entropy, optimizer=Broken)
    assert str(caught.value) == "optimizer Broken raised KeyError: 'momentum' in its step"


class Gated(nn.Module):
    """A gate and a head at zero: what is behind them gets its gradient after two steps."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.gate = nn.Linear(20, 20), nn.Parameter(torch.zeros(()))
        self.branch, self.head = mlp(hidden=1), nn.Linear(20, 5)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        out: torch.Tensor = self.head(x) + self.gate * self.branch(x)
        return out


@pytest.mark.parametrize("kind", [SGD, Adam])
@pytest.mark.parametrize("first", [0.0, 1e-3])
def test_a_gate_wakes_in_a_warm_up_that_begins_at_nothing(kind: Any, first: float) -> None:
    x, y = batch()
    model = Gated()
    optimizer = kind(model.parameters(), lr=0.01)
    LambdaLR(optimizer, lambda step: first + step / 100)
    with unchanged(model):
        found = probe(model, x, y, loss=cross_entropy, optimizer=optimizer)
    assert (found.verdict, len(found.profiles)) == ("healthy", 2)
    assert optimizer.param_groups[0]["lr"] == 0.01 * first

"""Optimizers that do without torch's compiler make the very steps that torch's make."""

from __future__ import annotations

import functools
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pytest_gradhealth.training.optimizers import build
from pytest_gradhealth.training.uncompiled import uncompiled

KINDS: dict[str, type[Optimizer]] = {
    kind.__name__: kind
    for kind in (
        torch.optim.SGD,
        torch.optim.Adam,
        torch.optim.AdamW,
        torch.optim.RMSprop,
        torch.optim.Adagrad,
        torch.optim.LBFGS,
    )
}


def trained(kind: type[Optimizer]) -> list[Tensor]:
    torch.manual_seed(0)
    layer, x = nn.Linear(5, 3), torch.randn(7, 5)
    optimizer = kind(layer.parameters(), lr=0.01)  # type: ignore[call-arg]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = layer(x).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    for _ in range(4):
        assert optimizer.step(closure) is not None  # type: ignore[arg-type]
    return [parameter.detach() for parameter in layer.parameters()]


@pytest.mark.parametrize("name", KINDS)
def test_its_steps_are_the_same_to_the_last_bit(name: str) -> None:
    kind = KINDS[name]
    assert all(map(torch.equal, trained(kind), trained(uncompiled(kind))))


def test_it_is_one_of_its_kind_under_its_name() -> None:
    layer = nn.Linear(2, 2)
    for optimizer in (None, torch.optim.Adam):
        built = build(optimizer, [*layer.parameters()])
        assert type(built).__name__ == "Adam"
        assert isinstance(built, torch.optim.Adam)
        assert built.param_groups[0]["lr"] == 1e-3


def test_what_others_make_is_as_they_make_it() -> None:
    class Own(torch.optim.SGD):
        pass

    layer = nn.Linear(2, 2)
    assert type(build(Own, [*layer.parameters()])) is Own
    factory = partial(torch.optim.SGD, lr=0.1)
    assert type(build(factory, [*layer.parameters()])) is torch.optim.SGD


def test_hooks_on_steps_are_called() -> None:
    layer, called = nn.Linear(2, 2), []
    optimizer = uncompiled(torch.optim.SGD)(layer.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *_: called.append(1))
    optimizer.step()
    assert called == [1]


def test_what_somebody_has_put_around_a_step_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []
    own = torch.optim.SGD.step

    @functools.wraps(own)
    def watched(*args: Any, **kwargs: Any) -> Any:
        called.append(1)
        return own(*args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    uncompiled(torch.optim.SGD)(nn.Linear(2, 2).parameters(), lr=0.1).step()
    assert called == [1]

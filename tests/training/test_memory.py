"""Room for the copy that steps are made on: what it takes, and what is said where it is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pytest_gradhealth import ProbeError, probe
from pytest_gradhealth.tensors import memory as left
from pytest_gradhealth.training import memory
from tests.helpers.nets import batch, mlp


class Tied(nn.Module):
    """Two layers of one weight, a buffer, and a frozen bias."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(8, 8, bias=False), nn.Linear(8, 8)
        self.other.weight = self.one.weight
        self.other.bias.requires_grad_(False)
        self.register_buffer("mean", torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("optimizer", "state"),
    [
        (None, 2),
        (torch.optim.Adam, 2),
        (torch.optim.SGD, 0),
        (lambda ps: torch.optim.Adam(ps), 0),
    ],
)
def test_bytes_are_counted_once(optimizer: object, state: int) -> None:
    weight, rest = 8 * 8 * 4, 8 * 4 + 5 * 8
    expected = weight + rest + weight + state * weight
    assert memory.bytes_of_steps([Tied()], optimizer) == expected  # type: ignore[arg-type]


def test_an_optimizer_in_use_counts_by_its_class() -> None:
    model = mlp()
    used = torch.optim.AdamW(model.parameters())
    assert memory.bytes_of_steps([model], used) == memory.bytes_of_steps([model], None)


def test_a_second_look_without_room_says_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    (x, y), model = batch(), mlp(nn.Sigmoid, hidden=12, width=2000)
    needed = memory.bytes_of_steps([model], None)
    assert needed == 4 * 4 * sum(p.numel() for p in model.parameters())
    monkeypatch.setattr(left, "_free_on_host", lambda: needed - 1)
    with pytest.raises(ProbeError) as caught:
        probe(model, x, y, loss=cross_entropy)
    assert str(caught.value) == (
        "Sequential has to be looked at again after some training steps, which are made on a copy:"
        " with gradients and optimizer state that takes 0.7 GiB, and cpu has 0.7 GiB left; pass"
        " confirm_steps=0 to judge the first look alone, or a smaller model of the same kind"
    )
    assert probe(model, x, y, loss=cross_entropy, confirm_steps=0).verdict == "failure"


def test_a_healthy_model_needs_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(left, "_free_on_host", lambda: 0)
    x, y = batch()
    assert probe(mlp(), x, y, loss=cross_entropy).verdict == "healthy"


def test_where_nobody_tells_what_is_free_steps_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(left, "_MACHINE", Path("/nowhere"))
    (x, y), model = batch(), mlp(nn.Sigmoid, hidden=12)
    assert left.free_bytes(torch.device("cpu")) is None
    assert probe(model, x, y, loss=cross_entropy).confirmation is not None

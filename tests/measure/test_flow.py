"""Which layer uses which, read from the graph of a forward."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_gradhealth import probe
from pytest_gradhealth.results.flow import FlowRecord
from tests.models import connected
from tests.models.connected import Net, X, Y


def flow(net: Net) -> dict[str, tuple[str, ...]]:
    records = probe(net, X, Y, loss=net.loss).profile.flow
    return {record.layer: record.users for record in records}


def test_a_shortcut_is_a_place_that_several_read() -> None:
    read = flow(connected.Residual())
    assert read["stem"] == ("+blocks.1.0", "blocks.0.0")
    assert read["+blocks.1.0"] == ("+blocks.2.0", "blocks.1.0")
    assert read["blocks.0.0"] == ("blocks.0.1",)
    assert read["blocks.0.3"] == ("+blocks.1.0",)
    assert read["+blocks.3.0"] == ("blocks.3.0", "head")
    assert read["blocks.3.3"] == ("head",)
    assert read["head"] == ("(loss)",)
    assert [*read][:2] == ["stem", "blocks.0.0"]


def test_a_distribution_parts_the_encoder_from_the_decoder_where_it_is_cut() -> None:
    assert flow(connected.Autoencoder())["encoder.2"] == ("+decoder.0",)
    assert flow(connected.Autoencoder("sampled"))["encoder.2"] == ("(loss)",)


def test_a_cell_uses_what_it_returned_before() -> None:
    def cell(mode: str) -> FlowRecord:
        return probe(connected.Loop(mode), X, Y, loss=nn.functional.cross_entropy).profile.flow[0]

    assert cell("") == FlowRecord("cell", ("cell", "head"), 5, 5)
    assert cell("detached") == FlowRecord("cell", ("head",), 5, 1)
    assert cell("mean detached") == FlowRecord("cell", ("head",), 5, 5)


class Twice(Net):
    """A layer that is called twice, and what each call counts for."""

    def make(self) -> None:
        self.weights = (1.0, 1.0)
        self.layer, self.gate = nn.Linear(8, 4), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        one, other = (weight * self.layer(x) for weight in self.weights)
        out: Tensor = one + other * (self.gate if self.mode == "gate" else 1)
        return out


def test_what_a_zero_multiplies_is_not_read_but_a_gate_that_opens_is() -> None:
    def layer(mode: str, weights: tuple[float, float]) -> FlowRecord:
        net = Twice(mode)
        net.weights = weights
        return probe(net, X, Y, loss=net.loss).profile.flow[0]

    assert layer("", (1.0, 0.5)).reached == layer("gate", (1.0, 0.5)).reached == 2
    assert layer("", (1.0, 0.0)).reached == layer("", (0.0, 1.0)).reached == 1
    assert layer("", (0.0, 0.0)).reached == 2, "that nothing gets there, its weights tell"


class Seeing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode as counters of operations are, which get mere numbers for numbers in tensors."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_a_zero_is_read_whatever_mode_looks_on() -> None:
    net = Twice()
    net.weights = (1.0, 0.0)
    with Seeing():  # type: ignore[no-untyped-call]
        assert probe(net, X, Y, loss=net.loss).profile.flow[0].reached == 1


class Outer(nn.Module):
    """A module that returns the very tensor of one inside."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.inner = nn.Parameter(torch.ones(())), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x * self.scale)
        return out


def test_the_innermost_layer_counts_whatever_is_around_it() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), Outer(), nn.ReLU(), nn.Linear(8, 4))
    diagnosis = probe(net, X, Y, loss=nn.functional.cross_entropy)
    assert [point.label for point in diagnosis.profile.paths[0].points] == ["0", "1", "2", "3"]
    assert [(r.layer, r.users) for r in diagnosis.profile.flow] == [
        ("0", ("1.inner",)),
        ("1.inner", ("3",)),
        ("3", ("(loss)",)),
    ]


class Wired(Net):
    """Layers that read the sums of some before them."""

    def __init__(self, wires: dict[int, list[int]]) -> None:
        self.wires = wires
        super().__init__()

    def make(self) -> None:
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(1 + max(self.wires)))

    def forward(self, x: Tensor) -> Tensor:
        made = [x]
        for place, layer in enumerate(self.layers):
            made.append(torch.tanh(layer(torch.stack([made[i] for i in self.wires[place]]).sum(0))))
        return made[-1]


@pytest.mark.parametrize("seed", range(8))
def test_what_is_read_is_what_was_wired(seed: int) -> None:
    dice = random.Random(seed)
    wires = {n: sorted({*dice.choices(range(n + 1), k=3), n}) for n in range(6)}
    read = flow(Wired(wires))

    def users(name: str) -> set[str]:
        found = set[str]()
        for user in read[name]:
            found |= users(user) if user.startswith("+") else {user}
        return found

    for place in range(5):
        expected = {f"layers.{n}" for n, ways in wires.items() if place + 1 in ways}
        assert users(f"layers.{place}") == expected

"""Layers that lose their gradient, come, go or stand where others stood, on tiny networks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import Diagnosis, probe
from pytest_gradhealth.baseline.check import Check
from pytest_gradhealth.plugin.baseline_gate import kept_of
from tests.helpers.gate import compared

Change = Callable[[Any], object]
WIDTH = 8
X = torch.randn(16, WIDTH, generator=torch.Generator().manual_seed(1))
Y = torch.arange(16) % 4


class Block(nn.Module):
    """Two layers beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 12), nn.Linear(12, 8)
        self.skip = True

    def forward(self, x: Tensor) -> Tensor:
        out = 2 * self.down(F.gelu(self.up(self.norm(x))))
        kept: Tensor = x + out if self.skip else out
        return kept


class Net(nn.Module):
    """A stem, residual blocks, and two heads on what they make."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(WIDTH, WIDTH)
        self.blocks: Any = nn.ModuleList(Block() for _ in range(3))
        self.head, self.other = nn.Linear(WIDTH, 4), nn.Linear(WIDTH, 5)
        self.second_loss, self.detached = True, False

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for number, block in enumerate(self.blocks):
            h = h.detach() if self.detached and number == 1 else h
            h = block(h)
        if self.second_loss:
            return torch.cat([self.head(h), self.other(h)], 1)
        return F.pad(self.head(h), (0, 5))


def measured(model: nn.Module, x: Tensor = X, y: Tensor = Y, **options: Any) -> Diagnosis:
    return probe(model, x, y, loss=F.cross_entropy, **options)


@cache
def baseline() -> Diagnosis:
    return measured(Net())


def against_baseline(change: Change) -> Check:
    net = Net()
    change(net)
    return compared(baseline(), measured(net))


def told(check: Check) -> list[str]:
    """The words of what fails that is no matter of numbers."""
    return [c.message for c in check.failing if c.of_layers]


def frozen(*names: str) -> Change:
    def change(net: Net) -> None:
        for name in names:
            net.get_submodule(name).requires_grad_(False)

    return change


def in_a_list(net: Net) -> None:
    blocks = [*net.blocks]
    del net.blocks
    net.blocks = blocks


def thinner(net: Net) -> None:
    net.blocks[2].up, net.blocks[2].down = nn.Linear(WIDTH, 6), nn.Linear(6, WIDTH)


def frozen_and_cut_off(net: Net) -> None:
    frozen("blocks.1")(net)
    net.second_loss = False


def without_biases(net: Net) -> None:
    for block in net.blocks:
        block.down.bias.requires_grad_(False)


LOST: dict[str, tuple[Change, list[str]]] = {
    "blocks frozen": (
        frozen("blocks"),
        ["no gradient reaches blocks any more: frozen (684 of the 837 elements that got gradient)"],
    ),
    "the first layer frozen": (
        frozen("stem"),
        ["no gradient reaches stem any more: frozen (72 of the 837 elements that got gradient)"],
    ),
    "a part of some layers frozen": (
        without_biases,
        [
            "no gradient reaches 3 parameters of blocks (blocks.0.down.bias to blocks.2.down.bias)"
            " any more: frozen (24 of the 837 elements that got gradient)"
        ],
    ),
    "layers that are frozen and layers that are cut off": (
        frozen_and_cut_off,
        [
            "no gradient reaches blocks.1 any more: frozen (228 of the 837 elements that got"
            " gradient)",
            "no gradient reaches other any more: cut off from the loss, or unused (45 of the 837"
            " elements that got gradient)",
        ],
    ),
    "a detach on the way": (
        lambda net: setattr(net, "detached", True),
        [
            "no gradient reaches stem and blocks.0 any more: cut off from the loss, or unused (300"
            " of the 837 elements that got gradient)"
        ],
    ),
    "layers in a list": (
        in_a_list,
        [
            "not in the model any more, though its forward uses them: blocks (684 of the 837"
            " elements that got gradient): is an nn.ModuleList a plain list now?"
        ],
    ),
    "a block less": (
        lambda net: net.blocks.pop(1),
        ["gone from the model: blocks.2 (228 of the 837 elements that got gradient)"],
    ),
    "thinner layers": (
        thinner,
        [
            "smaller than it was: blocks.2.up and blocks.2.down (102 of the 837 elements that got"
            " gradient are gone)"
        ],
    ),
    "a block more": (
        lambda net: net.blocks.append(Block()),
        ["new on the path: blocks.3 (228 elements; 837 got gradient before)"],
    ),
    "a larger head": (
        lambda net: setattr(net, "other", nn.Linear(WIDTH, 6)),
        ["larger than it was: other (9 elements more; 837 got gradient before)"],
    ),
}


@pytest.mark.parametrize("kind", LOST)
def test_a_changed_set_of_parameters_is_named_and_fails(kind: str) -> None:
    change, messages = LOST[kind]
    check = against_baseline(change)
    assert sorted(told(check)) == messages
    lost = any(message.startswith(("no gradient", "not in")) for message in messages)
    assert lost is any(c.fails == "regression" for c in check.failing if c.of_layers)


def test_what_gets_gradient_again_is_named() -> None:
    before = Net()
    frozen("blocks.0", "other")(before)
    assert told(compared(measured(before), measured(Net()))) == [
        "gradient reaches blocks.0 and other now (273 elements), and did not before"
    ]


def without_skips(*places: int) -> Change:
    def change(net: Net) -> None:
        for place in places:
            net.blocks[place].skip = False

    return change


def test_layers_that_nothing_goes_round_any_more_are_named() -> None:
    gone = "which gradient went round before: is a skip connection gone, or detached?"
    assert told(against_baseline(without_skips(1))) == [
        f"new on the path: blocks.1, {gone}",
    ]
    assert told(against_baseline(without_skips(0, 1, 2))) == [f"new on the path: blocks, {gone}"]


def test_layers_that_something_goes_round_now_are_named() -> None:
    plain = Net()
    without_skips(2)(plain)
    assert told(compared(measured(plain), baseline())) == [
        "gone from the path: blocks.2, which gradient goes round now: is there a new skip"
        " connection?"
    ]


class Stack(nn.Module):
    """Layers one after the other, of which the last may be forgotten."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.used, self.head = layers, nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[: self.used]:
            x = F.relu(layer(x))
        out: Tensor = self.head(x)
        return out


def test_layers_on_the_path_that_are_passed_over_are_no_idle_experts() -> None:
    assert told(compared(measured(Stack()), measured(Stack(2)))) == [
        "not called any more, though others of the list are: layers.2 (72 of the 252 elements that"
        " got gradient)"
    ]


class Mixture(nn.Module):
    """Experts that each example is sent to one of."""

    def __init__(self, experts: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.router = nn.Linear(WIDTH, experts)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(experts))
        self.stem, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        weights, chosen = self.router(h).softmax(1).max(1)
        out = torch.zeros_like(h)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).nonzero()[:, 0]
            if len(rows):
                out = out.index_add(0, rows, weights[rows, None] * expert(h[rows]))
        kept: Tensor = self.head(out)
        return kept


def test_experts_that_another_batch_goes_to_are_no_change() -> None:
    def routed(rows: slice) -> Diagnosis:
        return measured(Mixture(), X[rows], Y[rows])

    whole, few, one = routed(slice(None)), routed(slice(0, 3)), routed(slice(0, 1))
    states = [{p.use for p in kept_of(d, {}).parameters or ()} for d in (whole, few, one)]
    assert states == [{"gradient"}, {"gradient", "idle"}, {"gradient", "idle"}]
    for before, after in ((whole, few), (few, whole), (whole, one), (one, few)):
        assert told(compared(before, after)) == []
    notes = [c.message for c in compared(whole, one).comparison.changes if c.of_layers]
    assert len(notes) == 1
    assert notes[0].startswith("no gradient on this batch for 3 layers of experts (experts.")


class Louder(nn.Module):
    """Residual blocks that add up to a growth, which goes with their shortcuts."""

    def __init__(self, *, skip: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.skip = nn.Linear(WIDTH, WIDTH), skip
        blocks = [nn.Linear(WIDTH, WIDTH) for _ in range(6)]
        self.blocks, self.head = nn.ModuleList(blocks), nn.Linear(WIDTH, 4)
        for block in blocks:
            nn.init.orthogonal_(block.weight)
        nn.init.orthogonal_(self.head.weight, gain=2.0)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for block in self.blocks:
            h = h + 0.9 * block(h) if self.skip else block(h)
        out: Tensor = self.head(h)
        return out


def test_a_path_that_got_flatter_without_its_shortcuts_is_not_better() -> None:
    check = compared(measured(Louder(skip=True)), measured(Louder(skip=False)))
    assert [c.fails for c in check.failing] == ["layers"]
    assert any("towards x1" in c.message for c in check.comparison.changes)
    assert not check.comparison.better
    assert check.status == "changed"

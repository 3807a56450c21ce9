"""The same network written in another way has no connection that is gone, and no part either."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pytest_gradhealth import Diagnosis, probe
from pytest_gradhealth.baseline.check import Check
from pytest_gradhealth.plugin.baseline_gate import kept_of
from tests.helpers.gate import compared
from tests.models import connected
from tests.models.connected import WIDTH, Net, X, Y, linear

NETS = [
    kind.__name__
    for kind in vars(connected).values()
    if isinstance(kind, type) and issubclass(kind, Net) and kind not in (Net, connected.Quantised)
]


class Wrapper(nn.Module):
    """What DistributedDataParallel and torch.compile do to names."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.module = inner

    def forward(self, x: Tensor) -> Any:
        return self.module(x)


def built(name: str) -> Net:
    net: Net = getattr(connected, name)()
    return net


def measured(
    name: str, around: Callable[[nn.Module], Any] = nn.Module.train, **more: Any
) -> Diagnosis:
    net = built(name)
    return probe(around(net), *more.pop("batch", (X, Y)), loss=net.loss, **more)


@cache
def plain(name: str) -> Diagnosis:
    return measured(name)


def reseeded(net: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    return net


def checkpointed(net: nn.Module, *, reentrant: bool = False) -> nn.Module:
    """Every inner Sequential is computed again in the backward."""
    for module in net.modules():
        if isinstance(module, nn.Sequential):
            run = partial(checkpoint, module.forward, use_reentrant=reentrant)
            module.forward = run  # type: ignore[method-assign]
    return net


def compiled(net: nn.Module) -> Any:
    return torch.compile(net, backend="eager")


def with_dropout(net: nn.Module) -> nn.Module:
    """A dropout behind every activation, which numbers the layers behind it anew."""
    for name, module in [*net.named_modules()]:
        if isinstance(module, nn.Sequential):
            parts = [(m, nn.Dropout(0.1)) if isinstance(m, nn.GELU) else (m,) for m in module]
            net.set_submodule(name, nn.Sequential(*(m for each in parts for m in each)))
    return net


def decayed(parameters: Any) -> torch.optim.Optimizer:
    weights = [*parameters]
    return torch.optim.AdamW(
        [{"params": weights[::2]}, {"params": weights[1::2]}], weight_decay=0.1
    )


SOUND: dict[str, Callable[[str], Diagnosis]] = {
    "in wrappers": lambda name: measured(name, lambda net: nn.Sequential(Wrapper(net))),
    "compiled": lambda name: measured(name, compiled),
    "checkpoints": lambda name: measured(name, checkpointed),
    "dropout": lambda name: measured(name, with_dropout),
    "another seed, a small batch": lambda name: measured(
        name, reseeded, batch=(X[:3], Y[:3]), optimizer=decayed
    ),
}


@pytest.mark.parametrize("kind", SOUND)
@pytest.mark.parametrize("name", NETS)
def test_another_way_to_write_it_changes_no_connection(name: str, kind: str) -> None:
    other = SOUND[kind](name)
    for before, after in ((plain(name), other), (other, plain(name))):
        changes = compared(before, after).comparison.changes
        assert [change.message for change in changes if change.of_layers] == []


def test_reentrant_checkpoints_change_no_connection() -> None:
    """These hide the layers in them."""
    other = measured("Residual", partial(checkpointed, reentrant=True))
    assert {p.use for p in kept_of(other, {}).parameters or ()} == {"gradient", "inside"}
    for before, after in ((plain("Residual"), other), (other, plain("Residual"))):
        assert not [c for c in compared(before, after).comparison.changes if c.of_layers]


class Attention(Net):
    """An attention and an MLP, written out or fused, under some names."""

    names = "q k v o"

    def make(self) -> None:
        self.embed, self.head = linear(4, WIDTH), linear(WIDTH, 4)
        self.parts = nn.ModuleDict({name: linear(WIDTH, WIDTH) for name in self.names.split()})
        self.up, self.down = linear(WIDTH, 12), linear(12, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x.view(len(x), 2, 4))
        query, key, value, out = self.parts.values()
        if self.mode == "fused":
            mixed = F.scaled_dot_product_attention(query(h), key(h), value(h))
        else:
            mixed = (query(h) @ key(h).transpose(1, 2) / WIDTH**0.5).softmax(-1) @ value(h)
        h = h + out(mixed)
        if self.mode == "functions":
            inner = F.relu(F.linear(h, self.up.weight, self.up.bias), inplace=True)
            h = torch.add(F.linear(inner, self.down.weight, self.down.bias), h)
        else:
            h = h + self.down(F.relu(self.up(h)))
        answer: Tensor = self.head(h.mean(1))
        return answer


class Renamed(Attention):
    names = "query key value out"


class Gated(Net):
    """A gated MLP, registered in the order in which its layers are named (w1, w2, w3)."""

    names = "w1 w2 w3"

    def make(self) -> None:
        self.stem, self.head = linear(WIDTH, WIDTH), linear(WIDTH, 4)
        for name in self.names.split():
            setattr(self, name, nn.Linear(WIDTH, WIDTH, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        w1, w2, w3 = (self.get_submodule(name) for name in self.names.split())
        if self.names == "w1 w2 w3":
            w2, w3 = w3, w2
        out: Tensor = self.head(h + w3(F.silu(w1(h)) * w2(h)))
        return out


class GatedAnew(Gated):
    names = "gate up down"


class Numbered(Net):
    """Layers that are not all alike, with their activations as modules or without."""

    def make(self) -> None:
        layers = [linear(WIDTH, WIDTH) for _ in range(5)]
        parts = [(m, nn.Tanh()) if self.mode == "modules" else (m,) for m in layers]
        self.layers = nn.Sequential(*(m for each in parts for m in each))
        self.head = linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        layers = [m for m in self.layers if isinstance(m, nn.Linear)]
        for number, layer in enumerate(layers):
            x = x + torch.tanh(layer(x)) if number % 2 else torch.tanh(layer(x))
        out: Tensor = self.head(x)
        return out


def found(one: Net, other: Net) -> Check:
    return compared(probe(one, X, Y, loss=one.loss), probe(other, X, Y, loss=other.loss))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Attention, lambda: Attention("fused")),
        (Attention, lambda: Attention("functions")),
        (Attention, Renamed),
        (Gated, GatedAnew),
        (Numbered, lambda: Numbered("modules")),
    ],
    ids=["fused", "functions", "names", "order of registration", "numbers"],
)
def test_other_operations_and_names_change_nothing(
    one: Callable[[], Net], other: Callable[[], Net]
) -> None:
    for check in (found(one(), other()), found(other(), one())):
        assert check.comparison.changes == ()


def test_a_last_layer_that_starts_at_zero_silences_nothing() -> None:
    net = connected.Residual()
    for block in net.blocks:
        nn.init.zeros_(block[3].weight)
        nn.init.zeros_(block[3].bias)
    assert compared(plain("Residual"), probe(net, X, Y, loss=net.loss)).failing == ()


def test_another_head_is_all_that_fine_tuning_changes() -> None:
    net = connected.Residual()
    net.head = nn.Linear(WIDTH, 10)
    (change,) = compared(plain("Residual"), probe(net, X, Y, loss=net.loss)).failing
    assert change.message == (
        "larger than it was: head (54 elements more; 748 got gradient before)"
    )


class Sometimes(Net):
    """Blocks that the batch or the dice leave out."""

    def make(self) -> None:
        self.stem, self.head = linear(WIDTH, WIDTH), linear(WIDTH, 4)
        self.blocks: Any = nn.ModuleList(linear(WIDTH, WIDTH) for _ in range(4))
        self.router = linear(WIDTH, 4)
        self.left_out = 0.0

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        weights = self.router(h).softmax(1)
        weights = weights * F.one_hot(weights.argmax(1), 4)
        for number, block in enumerate(self.blocks):
            if self.mode == "weighted by the largest":
                h = h + weights[:, number : number + 1] * block(h)
            elif self.mode == "until it is large" and number and h.norm() > self.left_out:
                break
            elif self.mode != "by the dice" or torch.rand(()) >= self.left_out:
                h = h + F.gelu(block(h)) * weights.sum(1, keepdim=True)
        out: Tensor = self.head(h)
        return out


@pytest.mark.parametrize(
    ("mode", "left_out"),
    [("by the dice", 0.7), ("until it is large", 2.0), ("weighted by the largest", 0.0)],
)
def test_blocks_that_are_left_out_now_and_then_are_not_forgotten(
    mode: str, left_out: float
) -> None:
    def run(left_out: float, rows: slice) -> Diagnosis:
        net = Sometimes(mode)
        net.left_out = left_out
        return probe(net, X[rows], Y[rows], loss=net.loss)

    every = 0.0 if mode == "by the dice" else 100.0
    check = compared(run(every, slice(None)), run(left_out, slice(0, 2)))
    assert check.failing == ()
    notes = [c.message for c in check.comparison.changes]
    assert len(notes) == (mode != "weighted by the largest")
    assert all(note.startswith("no gradient on this batch for ") for note in notes)
    assert all(note.endswith("; others of the list get some") for note in notes)

"""Faults of optimizers, of memory that nobody wrote, of parts of weights, each with its cure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from examples.study.faults.batches import digits
from examples.study.faults.parts import tower
from examples.study.network import Batch

Made = tuple[nn.Module, torch.optim.Optimizer | None]
adam = torch.optim.Adam


@dataclass(frozen=True)
class Declared:
    """A fault by its name, the rule that is to see it, and what makes it, sick and cured.

    `sick` and `cured` return the model and, where the fault is one of it, the optimizer. `whole`
    says that the fault is in the memory that a factory leaves.
    """

    name: str
    code: str
    sick: Callable[[], Made]
    cured: Callable[[], Made]
    batch: Callable[[], Batch] = digits
    loss: Callable[[Any, Any], Tensor] = F.cross_entropy
    whole: bool = False


@cache
def declared() -> dict[str, Declared]:
    """All of them by name."""
    return {fault.name: fault for fault in (*_optimizers(), *_memory(), *_parts())}


def _net() -> nn.Sequential:
    return tower((784, 64, 64, 10), nn.ReLU)


def _over(choose: Callable[[nn.Sequential], Any]) -> Made:
    model = _net()
    return model, adam(choose(model))


def _all_of(model: nn.Module) -> list[nn.Parameter]:
    return list(model.parameters())


def _optimizers() -> Iterator[Declared]:
    """What an optimizer holds, and with which rate."""
    for name, sick in (
        ("head replaced after the optimizer was built", _replaced),
        ("layer unfrozen after the optimizer was built", _unfrozen),
        ("biases left out of the groups", partial(_over, lambda m: _shaped(m, 2))),
        ("weights left out of the groups", partial(_over, lambda m: _shaped(m, 1))),
        ("first layer left out of the groups", partial(_over, lambda m: _all_of(m)[2:])),
        ("optimizer of another model", partial(_over, lambda _: _net().parameters())),
        ("group with a rate of 0", partial(_over, partial(_grouped, rate=0.0))),
    ):
        yield Declared(name, "GH602", sick, partial(_over, _all_of))
    yield Declared("parameter held twice", "GH602", _twice, partial(_over, _all_of))


def _shaped(model: nn.Module, axes: int) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.ndim == axes]


def _grouped(model: nn.Sequential, rate: float) -> list[dict[str, Any]]:
    first, *rest = model.parameters()
    return [{"params": [first], "lr": rate}, {"params": rest}]


def _replaced() -> Made:
    model = _net()
    optimizer = adam(model.parameters())
    model[-1] = nn.Linear(64, 10)
    return model, optimizer


def _unfrozen() -> Made:
    model = _net()
    model[0].requires_grad_(False)
    optimizer = adam(p for p in model.parameters() if p.requires_grad)
    model[0].requires_grad_(True)
    return model, optimizer


def _twice() -> Made:
    model = _net()
    optimizer = adam(model.parameters())
    optimizer.param_groups.append({**optimizer.param_groups[0], "params": [model[0].weight]})
    return model, optimizer


class Scaled(nn.Module):
    """A linear layer with a scale of its own, and a shift that is a buffer."""

    def __init__(self, make: Callable[..., Tensor], shift: Callable[..., Tensor]) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 64)
        self.scale = nn.Parameter(make(64))
        self.register_buffer("shift", shift(64))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        outputs: Tensor = self.head(F.relu(self.linear(x) * self.scale + self.shift))
        return outputs


def _memory() -> Iterator[Declared]:
    """Tensors that nothing has written when the factory is done."""
    right = partial(_alone, partial(Scaled, torch.ones, torch.zeros))
    for name, sick in (
        ("scale of torch.empty()", partial(Scaled, torch.empty, torch.zeros)),
        ("buffer of torch.empty()", partial(Scaled, torch.ones, torch.empty)),
        ("to_empty() after a build on the meta device", _emptied),
        ("layer of skip_init()", _skipped),
        ("initialiser that skips the biases", _without_biases),
        ("new_empty() for one row of a longer embedding", _grown),
    ):
        batch = _words if name.startswith("new_empty") else digits
        cured = partial(_alone, partial(_grown, written=True)) if batch is _words else right
        yield Declared(name, "GH409", partial(_alone, sick), cured, batch, whole=True)


def _alone(build: Callable[[], nn.Module]) -> Made:
    return build(), None


def _emptied() -> nn.Module:
    with torch.device("meta"):
        model = _net()
    return model.to_empty(device="cpu")


def _skipped() -> nn.Module:
    skipped: nn.Module = skip_init(nn.Linear, 784, 64)  # type: ignore[no-untyped-call]
    return nn.Sequential(skipped, nn.ReLU(), nn.Linear(64, 10))


def _without_biases() -> nn.Module:
    model = _emptied()
    for p in model.parameters():
        if p.ndim > 1:
            nn.init.xavier_uniform_(p)
    return model


def _grown(*, written: bool = False) -> nn.Module:
    embedding = nn.Embedding(20, 16)
    row = embedding.weight.new_empty(1, 16)
    row = torch.nn.init.normal_(row) if written else row
    longer = nn.Embedding(21, 16, _weight=torch.cat([embedding.weight.data, row]))
    return nn.Sequential(longer, nn.Flatten(), nn.Linear(64, 10))


def _words() -> Batch:
    tokens = torch.randint(21, (64, 4))
    return tokens, tokens[:, 0] % 10


class Parted(nn.Module):
    """Reads a digit row by row with a recurrence or an attention whose weights are fused."""

    def __init__(self, part: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.embed, self.qkv = nn.Linear(28, 32), nn.Linear(32, 96)
        self.head = nn.Linear(32, 10)
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        q, k, v = self.part(self.qkv(self.embed(x.unflatten(1, (28, 28)))).chunk(3, -1))  # type: ignore[no-untyped-call]
        outputs: Tensor = self.head(F.scaled_dot_product_attention(q, k, v).mean(1))
        return outputs


class Stacked(nn.Module):
    """Four experts in one weight, mixed by a router, some of which it may never choose."""

    def __init__(self, reachable: int) -> None:
        super().__init__()
        self.embed, self.router = nn.Linear(784, 32), nn.Linear(32, reachable)
        self.experts = nn.Parameter(torch.randn(4, 32, 32) / 6)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        hidden = F.relu(self.embed(x))
        shares = F.pad(self.router(hidden).softmax(-1), (0, 4 - self.router.out_features))
        mixed = torch.einsum("be,eio,bi->bo", shares, self.experts, hidden)
        outputs: Tensor = self.head(mixed)
        return outputs


class Tied(nn.Module):
    """An embedding whose weight is also the head's; its own use may be detached."""

    def __init__(self, *, detached: bool) -> None:
        super().__init__()
        self.embed, self.body = nn.Embedding(20, 32), tower((32, 32, 32), nn.Tanh)
        self.head = nn.Linear(32, 20, bias=False)
        self.head.weight = self.embed.weight
        self.detached = detached

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits of the next token."""
        words = self.embed(tokens).mean(1)
        outputs: Tensor = self.head(self.body(words.detach() if self.detached else words))
        return outputs


def _tied_words() -> Batch:
    tokens = torch.randint(20, (64, 4))
    return tokens, tokens[:, 0]


class Gated(nn.Module):
    """An LSTM cell by hand, one of whose gates may be cut off."""

    def __init__(self, cut: int | None) -> None:
        super().__init__()
        self.gates, self.head = nn.Linear(28 + 32, 4 * 32), nn.Linear(32, 10)
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        """Return logits after the last row."""
        state = memory = x.new_zeros(len(x), 32)
        for row in x.unflatten(1, (28, 28)).unbind(1):  # type: ignore[no-untyped-call]
            parts = list(self.gates(torch.cat([row, state], 1)).chunk(4, 1))
            if self.cut is not None:
                parts[self.cut] = parts[self.cut].detach()
            keep, write, read, new = parts
            memory = keep.sigmoid() * memory + write.sigmoid() * new.tanh()
            state = read.sigmoid() * memory.tanh()
        outputs: Tensor = self.head(state)
        return outputs


def _parts() -> Iterator[Declared]:
    """A part of a fused weight that gets no gradient while the rest does."""
    whole = partial(_alone, partial(Parted, tuple))
    for name, cut in (("query", (0,)), ("key", (1,)), ("query and key", (0, 1)), ("value", (2,))):
        sick = partial(_alone, partial(Parted, partial(_detached, cut)))
        yield Declared(f"{name} of a fused projection detached", "GH401", sick, whole)
    for number, name in enumerate(("forget", "input", "output")):
        sick = partial(_alone, partial(Gated, number))
        right = partial(_alone, partial(Gated, None))
        yield Declared(f"{name} gate detached", "GH401", sick, right)
    yield Declared(
        "expert in a stack that no router reaches",
        "GH401",
        partial(_alone, partial(Stacked, 3)),
        partial(_alone, partial(Stacked, 4)),
    )
    yield Declared(
        "own use of a tied embedding detached",
        "GH401",
        partial(_alone, partial(Tied, detached=True)),
        partial(_alone, partial(Tied, detached=False)),
        _tied_words,
    )


def _detached(cut: tuple[int, ...], parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(p.detach() if number in cut else p for number, p in enumerate(parts))

"""Small networks whose layers are connected in ways that a change may break, whole and broken."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 8
X = torch.randn(16, WIDTH, generator=torch.Generator().manual_seed(1))
Y = torch.arange(16) % 4


def _same(x: Tensor) -> Tensor:
    return x


def linear(*sizes: int) -> Any:
    """Linear layers with a tanh between each two, one alone as it is."""
    layers: list[nn.Module] = []
    for one, other in itertools.pairwise(sizes):
        layers += [nn.Tanh(), nn.Linear(one, other)]
    return nn.Sequential(*layers[1:]) if len(layers) > 2 else layers[1]


class Net(nn.Module):
    """A network that `mode` does something to; "" is the whole one."""

    def __init__(self, mode: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mode = mode
        self.make()

    def make(self) -> None:
        """Make the layers."""
        raise NotImplementedError

    def loss(self, out: Any, y: Tensor) -> Tensor:
        """What is asked of the outputs."""
        return F.cross_entropy(out, y)


class Residual(Net):
    """A residual stream that is written out in the forward."""

    def make(self) -> None:
        self.stem, self.head = linear(WIDTH, WIDTH), linear(WIDTH, 4)
        self.blocks: Any = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(WIDTH), linear(WIDTH, WIDTH), nn.GELU(), linear(WIDTH, WIDTH)
            )
            for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for number, block in enumerate(
            self.blocks[:-1] if self.mode == "forgotten" else self.blocks
        ):
            branch = block(h)
            if number == 1 or self.mode == "no skips":
                h = {
                    "no skip": 0,
                    "no skips": 0,
                    "skip times 0": h * 0,
                    "detached": h.detach(),
                }.get(self.mode, h) + (branch * (0 if self.mode == "zero" else 1))
            else:
                h = h + branch
        out: Tensor = self.head(h)
        return out


#: Ways to multiply by a number that is zero.
ZEROED: dict[str, Callable[[Tensor], Tensor]] = {
    "times 0": lambda skip: skip * 0,
    "0.0 times": lambda skip: 0.0 * skip,
    "times a tensor": lambda skip: skip * torch.zeros(()),
    "in place": lambda skip: skip.clone().mul_(0),
    "added 0 times": lambda skip: torch.zeros_like(skip).add(skip, alpha=0),
    "subtracted 0 times": lambda skip: torch.zeros_like(skip).sub(skip, alpha=0),
    "all dropped": lambda skip: F.dropout(skip, 1.0, training=True),
    "times 0, and on": lambda skip: (skip * 0).tanh().view_as(skip),
}


class UNet(Net):
    """Long skips from the way down to the way up."""

    def make(self) -> None:
        self.down: Any = nn.ModuleList(linear(WIDTH, WIDTH) for _ in range(3))
        self.up: Any = nn.ModuleList(linear(2 * WIDTH, WIDTH) for _ in range(2))
        self.head = linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for layer in self.down:
            x = F.gelu(layer(x))
            kept.append(x)
        for number, (layer, skip) in enumerate(zip(self.up, kept[1::-1], strict=True)):
            if number == 1:
                skip = x if self.mode == "no long skip" else ZEROED.get(self.mode, _same)(skip)
            x = F.gelu(layer(torch.cat([x, skip], 1)))
        out: Tensor = self.head(x)
        return out


class Dense(Net):
    """Every layer reads all before it."""

    def make(self) -> None:
        sizes = [(WIDTH, 4), (4, 4), (8, 4), (12, 4)]
        self.layers: Any = nn.ModuleList(nn.Linear(*size) for size in sizes)
        self.head = linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        made: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            read = made or [x]
            if self.mode == "not all" and number == 3:
                read = [made[1], made[1], made[2]]
            made.append(F.relu(layer(torch.cat(read, 1))))
        out: Tensor = self.head(torch.cat(made, 1))
        return out


class Conditioned(Net):
    """A condition that every block gets."""

    def make(self) -> None:
        self.condition, self.stem = linear(2, WIDTH), linear(WIDTH - 2, WIDTH)
        self.blocks: Any = nn.ModuleList(linear(WIDTH, WIDTH) for _ in range(3))
        self.head = linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        told, h = F.silu(self.condition(x[:, :2])), self.stem(x[:, 2:])
        for number, block in enumerate(self.blocks):
            known = told * (self.mode != "zero")
            if not (self.mode == "not told" and number == 2):
                h = h + F.gelu(block(h + known))
            else:
                h = h + F.gelu(block(h))
        out: Tensor = self.head(h)
        return out


class Autoencoder(Net):
    """A variational autoencoder (Kingma and Welling 2014)."""

    def make(self) -> None:
        self.encoder, self.decoder = linear(WIDTH, WIDTH, 6), linear(3, WIDTH, WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        mean, log = self.encoder(x).chunk(2, 1)
        normal = torch.distributions.Normal(mean, (log / 2).exp())
        code = normal.rsample()
        if self.mode == "sampled":
            with torch.no_grad():
                code = normal.rsample()
        return self.decoder(code.detach() if self.mode == "detached" else code), mean, log, x

    def loss(self, out: Any, y: Tensor) -> Tensor:
        seen, mean, log, x = out
        prior: Tensor = (mean.square() + log.exp() - log - 1).mean()
        return F.mse_loss(seen, x) + 0.1 * prior


class Categorical(Net):
    """A category, drawn so that its choice has a gradient (Jang et al. 2017)."""

    def make(self) -> None:
        self.encoder, self.decoder = linear(WIDTH, 6), linear(6, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.encoder(x)
        drawn = F.gumbel_softmax(logits, hard=True)
        if self.mode == "no straight-through":
            drawn = F.one_hot(drawn.argmax(1), 6).float()
        return self.decoder(drawn), logits

    def loss(self, out: Any, y: Tensor) -> Tensor:
        total: Tensor = F.cross_entropy(out[0], y) + 0.01 * out[1].square().mean()
        return total


class Quantised(Net):
    """A codebook, passed by straight through (van den Oord et al. 2017)."""

    def make(self) -> None:
        self.encoder, self.decoder = linear(WIDTH, WIDTH, 4), linear(4, 4)
        self.book = nn.Embedding(6, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.encoder(x)
        near = self.book(torch.cdist(code, self.book.weight).argmin(1))
        apart = F.mse_loss(near, code.detach()) + 0.25 * F.mse_loss(code, near.detach())
        passed = near if self.mode == "no straight-through" else code + (near - code).detach()
        return self.decoder(passed), apart

    def loss(self, out: Any, y: Tensor) -> Tensor:
        total: Tensor = F.cross_entropy(out[0], y) + out[1]
        return total


class Contrastive(Net):
    """Two views of each example, of which a predictor tells the other (Chen and He 2021)."""

    def make(self) -> None:
        self.encoder, self.predictor = linear(WIDTH, WIDTH, WIDTH), linear(WIDTH, WIDTH, WIDTH)

    def forward(self, x: Tensor) -> list[Tensor]:
        views = [self.encoder(x), self.encoder(x.flip(1))]
        if self.mode == "one view":
            views[1] = views[1].detach()
        pairs = (views, views[::-1])
        if self.mode == "wrong branch":
            return [
                -F.cosine_similarity(self.predictor(one.detach()), other).mean()
                for one, other in pairs
            ]
        return [
            -F.cosine_similarity(self.predictor(one), other.detach()).mean() for one, other in pairs
        ]

    def loss(self, out: Any, y: Tensor) -> Tensor:
        total: Tensor = sum(out)
        return total


class ActorCritic(Net):
    """A policy and a value on one trunk."""

    def make(self) -> None:
        self.trunk = nn.Sequential(linear(WIDTH, WIDTH, WIDTH), nn.Tanh())
        self.policy, self.value = linear(WIDTH, 4), linear(WIDTH, WIDTH, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(x)
        return self.policy(h), self.value(h.detach() if self.mode == "detached" else h)

    def loss(self, out: Any, y: Tensor) -> Tensor:
        weight = 0.0 if self.mode == "zero" else 0.5
        total: Tensor = F.cross_entropy(out[0], y) + weight * (out[1][:, 0] - y).square().mean()
        return total


class Branches(Net):
    """Branches side by side, of which a mask may leave none of one."""

    def make(self) -> None:
        self.stem, self.head = linear(WIDTH, WIDTH), linear(WIDTH, 4)
        self.branches: Any = nn.ModuleList(linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        made = [
            F.gelu(b(h)) for b in (self.branches[1:] if self.mode == "forgotten" else self.branches)
        ]
        if self.mode == "masked":
            made[1] = made[1] * torch.zeros(len(x), 1)
        if self.mode == "never taken":
            made[1] = torch.where(made[0].isfinite(), made[0], made[1])
        out: Tensor = self.head(torch.stack(made).sum(0))
        return out


class Loop(Net):
    """A cell, called as often as it says."""

    steps = 5

    def make(self) -> None:
        self.cell, self.head = nn.GRUCell(WIDTH, WIDTH), linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        h, states = torch.zeros_like(x), []
        for _ in range(self.steps):
            h = self.cell(x, h.detach() if "detached" in self.mode else h)
            states.append(h)
        out: Tensor = self.head(torch.stack(states).mean(0) if "mean" in self.mode else h)
        return out


class Scaled(Net):
    """Parameters of the model itself beside its layers."""

    def make(self) -> None:
        self.scale, self.shift = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.zeros(WIDTH))
        self.stem, self.head = linear(WIDTH, WIDTH), linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.gelu(self.stem(x) * self.scale + self.shift))
        return out

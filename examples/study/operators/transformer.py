"""A small causal transformer whose every operation can be replaced by a wrong one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Tokens that there are, and in a sequence; 0 is padding.
VOCABULARY = LENGTH = 24
#: How far back the token is that is asked for.
BACK = 3
HEADS = 4

Branch = Callable[[Tensor], Tensor]
Join = Callable[[Tensor, Tensor], Tensor]
#: Of queries, keys and values.
Heads = tuple[Tensor, Tensor, Tensor]


def causal(length: int) -> Tensor:
    """Which key (column) a query (row) may see: itself and what came before."""
    return torch.ones(length, length, dtype=torch.bool).tril()


def scaled(scores: Tensor, width: int) -> Tensor:
    """Scores over the root of a head's width (Vaswani et al. 2017, section 3.2.1)."""
    return scores / math.sqrt(width)


def weighed(scores: Tensor, allowed: Tensor) -> Tensor:
    """The softmax over what may be seen."""
    return scores.masked_fill(~allowed, -math.inf).softmax(-1)


def unchanged(heads: Heads) -> Heads:
    """Queries, keys and values as they were projected."""
    return heads


def merged(heads: Tensor) -> Tensor:
    """Heads side by side again: (batch, heads, tokens, width) to (batch, tokens, all widths)."""
    return heads.transpose(1, 2).flatten(2)


def added(x: Tensor, branch: Tensor) -> Tensor:
    """A skip connection."""
    return x + branch


def replaced(_x: Tensor, branch: Tensor) -> Tensor:
    """None."""
    return branch


class Norm(nn.Module):
    """Layer norm over any axes; `eps` is added to the variance."""

    def __init__(self, width: int, axes: tuple[int, ...] = (-1,), eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.axes, self.eps = axes, eps

    def forward(self, x: Tensor) -> Tensor:
        """Centre, divide by the standard deviation, scale and shift the features."""
        variance = x.var(self.axes, correction=0, keepdim=True)
        centred = x - x.mean(self.axes, keepdim=True)
        return centred / torch.sqrt(variance + self.eps) * self.weight + self.bias


@dataclass(frozen=True)
class Plan:
    """What a transformer does at every place; the defaults are right."""

    blocks: int = 2
    width: int = 32
    allowed: Callable[[int], Tensor] = causal
    scale: Callable[[Tensor, int], Tensor] = scaled
    weigh: Callable[[Tensor, Tensor], Tensor] = weighed
    prepare: Callable[[Heads], Heads] = unchanged
    merge: Callable[[Tensor], Tensor] = merged
    after_attention: Callable[[Tensor, Tensor], Tensor] = added
    after_feed_forward: Callable[[Tensor, Tensor], Tensor] = added
    norm: Callable[[int], nn.Module] = Norm
    norm_first: bool = True
    activation: Callable[[], nn.Module] = nn.GELU
    between: Callable[[Tensor], Tensor] = torch.clone
    output: Callable[[Tensor], Tensor] = torch.clone
    initialise: Callable[[Transformer], object] | None = None


class Attention(nn.Module):
    """Causal self-attention with one weight for queries, keys and values."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.qkv = nn.Linear(plan.width, 3 * plan.width)
        self.out = nn.Linear(plan.width, plan.width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix what the tokens before have to say: (batch, tokens, width), both ways."""
        plan = self.plan
        parts = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
        q, k, v = plan.prepare((q, k, v))
        weights = plan.weigh(plan.scale(q @ k.mT, q.shape[-1]), plan.allowed(q.shape[-2]))
        outputs: Tensor = self.out(plan.merge(weights @ v))
        return outputs


class Block(nn.Module):
    """Attention and a feed-forward network, with norms before or behind them."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.attention = Attention(plan)
        self.up, self.act = nn.Linear(plan.width, 2 * plan.width), plan.activation()
        self.down = nn.Linear(2 * plan.width, plan.width)
        self.norms = nn.ModuleList(plan.norm(plan.width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream of the tokens, of the same shape."""
        plan = self.plan
        steps: tuple[tuple[Branch, Join], ...] = (
            (self.attention, plan.after_attention),
            (self._feed_forward, plan.after_feed_forward),
        )
        for norm, (branch, join) in zip(self.norms, steps, strict=True):
            x = self._step(norm, branch, join, x)
        return x

    def _step(self, norm: Branch, branch: Branch, join: Join, x: Tensor) -> Tensor:
        if self.plan.norm_first:
            return join(x, branch(norm(x)))
        return norm(join(x, branch(x)))

    def _feed_forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.down(self.act(self.up(x)))
        return outputs


class Transformer(nn.Module):
    """From tokens (batch, tokens) to logits (batch, classes, tokens) of what is asked at each."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.tokens = nn.Embedding(VOCABULARY, plan.width, padding_idx=0)
        self.positions = nn.Parameter(torch.empty(LENGTH, plan.width))
        self.blocks = nn.ModuleList(Block(plan) for _ in range(plan.blocks))
        self.norm = plan.norm(plan.width)
        self.head = nn.Linear(plan.width, VOCABULARY)
        nn.init.normal_(self.positions)
        if plan.initialise is not None:
            with torch.no_grad():
                plan.initialise(self)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits."""
        x = self.tokens(tokens) + self.positions
        for block in self.blocks:
            x = self.plan.between(block(x))
        return self.plan.output(self.head(self.norm(x))).movedim(-1, 1)


def batch(size: int = 24, *, padded: bool = False) -> tuple[Tensor, Tensor]:
    """Random tokens, and those `BACK` before them, which are asked for; of the first themselves.

    A quarter of the tokens is padding where they are `padded`.
    """
    tokens = torch.randint(1, VOCABULARY, (size, LENGTH))
    if padded:
        tokens[:, -LENGTH // 4 :] = 0
    return tokens, torch.cat([tokens[:, :BACK], tokens[:, :-BACK]], 1)


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy of every token."""
    return F.cross_entropy(logits, targets)

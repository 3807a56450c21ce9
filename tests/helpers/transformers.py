"""A small decoder whose parts can be written otherwise, rightly or wrongly."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, WORDS, LENGTH = 16, 11, 7


class Decoder(nn.Module):
    """Two blocks of causal attention and a feed-forward part, with a tied head.

    Each part is a method, for subclasses to write otherwise.
    """

    mask: Tensor

    def __init__(self, dropout: float = 0.1, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("mask", self.visible(LENGTH), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.order():
            x = self.residual(x, self.dropped(self.attended(block, self.normed(block.first, x))))
            x = self.residual(x, block.down(F.gelu(block.up(self.normed(block.second, x)))))
        return self.head(self.normed(self.norm, x))

    def visible(self, length: int) -> Tensor:
        return torch.ones(length, length, dtype=torch.bool).tril()

    def order(self) -> Any:
        return list(self.blocks)

    def residual(self, x: Tensor, change: Tensor) -> Tensor:
        return x + change

    def dropped(self, x: Tensor) -> Tensor:
        found: Tensor = self.dropout(x)
        return found

    def normed(self, norm: nn.LayerNorm, x: Tensor) -> Tensor:
        found: Tensor = norm(x)
        return found

    def projected(self, block: Block, x: Tensor) -> Tensor:
        found: Tensor = block.qkv(x)
        return found

    def attended(self, block: Block, x: Tensor) -> Tensor:
        q, k, v = self.split(block, x)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        weights = scores.masked_fill(~self.mask, -math.inf).softmax(-1)
        found: Tensor = block.out(self.joined(weights @ v))
        return found

    def split(self, block: Block, x: Tensor) -> list[Tensor]:
        parts = self.projected(block, x).chunk(3, -1)
        return [p.reshape(*p.shape[:2], self.heads, -1).transpose(1, 2) for p in parts]

    def joined(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)

    def head(self, x: Tensor) -> Tensor:
        return F.linear(x, self.embedding.weight)


class Block(nn.Module):
    """The layers of a block."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)


def batch(examples: int = 6) -> tuple[Tensor, Tensor]:
    """Tokens, and the next ones."""
    tokens = torch.randint(
        0, WORDS, (examples, LENGTH + 1), generator=torch.Generator().manual_seed(0)
    )
    return tokens[:, :-1], tokens[:, 1:]


def next_token_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())

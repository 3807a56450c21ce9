"""What a user of a library writes around its layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.study.zoo.libraries.batches import CLASSES, VOCABULARY, WIDTH


class Words(nn.Module):
    """Embedded words, the layers of a library, and a head for every word."""

    def __init__(self, *layers: nn.Module, outputs: int = VOCABULARY):
        super().__init__()
        self.words, self.layers = nn.Embedding(VOCABULARY, WIDTH), nn.Sequential(*layers)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, outputs)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.norm(self.layers(self.words(words))))  # type: ignore[no-any-return]


class Tagger(nn.Module):
    """A bidirectional LSTM whose tags a conditional random field scores together."""

    def __init__(self, field: nn.Module):
        super().__init__()
        self.words, self.field = nn.Embedding(VOCABULARY, 32), field
        self.cells = nn.LSTM(32, 32, bidirectional=True, batch_first=True)
        self.emissions = nn.Linear(64, CLASSES)

    def forward(self, words: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        hidden, _ = self.cells(self.words(words))
        return -self.field(self.emissions(hidden), tags, mask)  # type: ignore[no-any-return]


class Sparse(nn.Module):
    """A transformer's block whose feed-forward layer is a library's mixture of experts.

    The answer is the loss: that of the words and that of the router, where there is one.
    """

    def __init__(self, experts: nn.Module):
        super().__init__()
        self.words, self.experts = nn.Embedding(VOCABULARY, WIDTH), experts
        self.block = nn.TransformerEncoderLayer(WIDTH, 4, 128, 0.0, batch_first=True)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, words: Tensor, targets: Tensor) -> Tensor:
        x = self.block(self.words(words))
        mixed: Any = self.experts(self.norm(x))
        mixed, routing = mixed[:2] if isinstance(mixed, tuple) else (mixed, torch.zeros(()))
        logits = self.head(x + mixed)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten()) + routing  # type: ignore[no-any-return]

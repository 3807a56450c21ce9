"""Networks for sequences: language models, causal convolutions, recurrent ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.study.zoo.special.batches import (
    CLASSES,
    LENGTH,
    VOCABULARY,
    WIDTH,
    next_words,
    sentences,
    sounds,
    token_cross_entropy,
)
from examples.study.zoo.special.entry import Entry
from examples.study.zoo.special.parts import Apply, head, normal_, pre_norm


class Language(nn.Module):
    """A causal transformer over words, its head tied to the embedding or not."""

    def __init__(self, depth: int, tied: bool = True, rank: int = 0):
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.Sequential(*(pre_norm(WIDTH, True, rank) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)
        normal_(self)
        if tied:
            self.head.weight = self.words.weight
        for name, parameter in self.named_parameters():
            if name.endswith(("merge.weight", "body.1.2.weight")):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * depth))
            if name.endswith("up.weight"):
                nn.init.zeros_(parameter)

    def forward(self, words: Tensor) -> Tensor:
        places = torch.arange(words.shape[1], device=words.device)
        hidden = self.blocks(self.words(words) + self.places(places))
        return self.head(self.norm(hidden))  # type: ignore[no-any-return]


class WaveBlock(nn.Module):
    """A gated dilated causal convolution with a residual and a skip output."""

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.dilation = dilation
        self.both = nn.Conv1d(channels, 2 * channels, 2, dilation=dilation)
        self.residual, self.skip = (nn.Conv1d(channels, channels, 1) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.both(F.pad(x, (self.dilation, 0))).chunk(2, 1)
        y = a.tanh() * b.sigmoid()
        return x + self.residual(y), self.skip(y)


class Wave(nn.Module):
    """WaveNet in small: two stacks of dilations, all blocks summed for the answer."""

    def __init__(self, channels: int = 32, levels: int = 64):
        super().__init__()
        self.levels = nn.Embedding(levels, channels)
        self.blocks = nn.ModuleList(WaveBlock(channels, 2**i) for _ in range(2) for i in range(7))
        self.answer = nn.Sequential(
            nn.ReLU(), nn.Conv1d(channels, channels, 1), nn.ReLU(), nn.Conv1d(channels, levels, 1)
        )
        # Nothing follows the residual output of the last block.
        self.blocks[-1].get_submodule("residual").requires_grad_(False)

    def forward(self, samples: Tensor) -> Tensor:
        x = self.levels(samples).transpose(1, 2)
        total = torch.zeros_like(x)
        for block in self.blocks:
            x, skip = block(x)
            total = total + skip
        return self.answer(total).transpose(1, 2)  # type: ignore[no-any-return]


class TemporalBlock(nn.Module):
    """Two causal convolutions with weight normalisation and a residual connection."""

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        from torch.nn.utils.parametrizations import weight_norm

        self.padding = 2 * dilation
        pair = (nn.Conv1d(channels, channels, 3, dilation=dilation) for _ in range(2))
        self.first, self.second = (weight_norm(layer) for layer in pair)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(F.pad(x, (self.padding, 0))).relu()
        y = self.second(F.pad(y, (self.padding, 0))).relu()
        return (x + y).relu()  # type: ignore[no-any-return]


def temporal() -> nn.Module:
    """Return a temporal convolutional network that labels sentences."""
    return nn.Sequential(
        nn.Embedding(VOCABULARY, WIDTH),
        Apply(partial(torch.transpose, dim0=1, dim1=2)),
        *(TemporalBlock(WIDTH, 2**i) for i in range(5)),
        Apply(partial(torch.select, dim=2, index=-1)),
        head(),
    )


class Recurrent(nn.Module):
    """An embedding, a recurrent network, and a head on its last answer."""

    def __init__(self, kind: Callable[..., nn.Module], layers: int = 1, both: bool = False):
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.recurrent = kind(WIDTH, WIDTH, num_layers=layers, batch_first=True, bidirectional=both)
        self.head = nn.Linear(2 * WIDTH if both else WIDTH, CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        answers, _ = self.recurrent(self.words(words))
        return self.head(answers.mean(1))  # type: ignore[no-any-return]


class LastAnswer(Recurrent):
    """The same, of the very last answer."""

    def forward(self, words: Tensor) -> Tensor:
        answers, _ = self.recurrent(self.words(words))
        return self.head(answers[:, -1])  # type: ignore[no-any-return]


def encoder(depth: int = 6, norm_first: bool = False) -> nn.Module:
    """Return torch's own transformer encoder, as it comes."""
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 128, batch_first=True, norm_first=norm_first)
    # Without it a warning says that nested tensors cannot be used.
    blocks = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
    mean = Apply(partial(torch.mean, dim=1))
    return nn.Sequential(nn.Embedding(VOCABULARY, WIDTH), blocks, mean, head())


class Translator(nn.Module):
    """Words through torch's own transformer of encoder and decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.both = nn.Transformer(WIDTH, 4, 3, 3, 128, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, words: Tensor) -> Tensor:
        seen = self.words(words)
        return self.head(self.both(seen, seen))  # type: ignore[no-any-return]


#: Networks for sequences.
SEQUENCES: tuple[Entry, ...] = (
    (
        "GPT-2, 12 layers, tied",
        partial(Language, 12),
        next_words,
        token_cross_entropy,
        "Radford et al., 2019",
    ),
    (
        "tied language model",
        partial(Language, 4),
        next_words,
        token_cross_entropy,
        "Press and Wolf, 2017",
    ),
    (
        "untied language model",
        partial(Language, 4, False),
        next_words,
        token_cross_entropy,
        "Radford et al., 2019",
    ),
    (
        "nn.TransformerEncoder, post-norm",
        encoder,
        sentences,
        F.cross_entropy,
        "Vaswani et al., 2017",
    ),
    (
        "nn.TransformerEncoder, pre-norm",
        partial(encoder, 6, True),
        sentences,
        F.cross_entropy,
        "Xiong et al., 2020",
    ),
    ("nn.Transformer", Translator, next_words, token_cross_entropy, "Vaswani et al., 2017"),
    ("WaveNet", Wave, sounds, token_cross_entropy, "van den Oord et al., 2016"),
    ("TCN", temporal, sentences, F.cross_entropy, "Bai et al., 2018"),
    (
        "LSTM",
        partial(Recurrent, nn.LSTM),
        sentences,
        F.cross_entropy,
        "Hochreiter and Schmidhuber, 1997",
    ),
    (
        "LSTM, 2 layers, both ways",
        partial(Recurrent, nn.LSTM, 2, True),
        sentences,
        F.cross_entropy,
        "Graves and Schmidhuber, 2005",
    ),
    ("GRU", partial(Recurrent, nn.GRU), sentences, F.cross_entropy, "Cho et al., 2014"),
    ("RNN", partial(Recurrent, nn.RNN), sentences, F.cross_entropy, "Elman, 1990"),
    (
        "LSTM, last answer",
        partial(LastAnswer, nn.LSTM),
        sentences,
        F.cross_entropy,
        "Hochreiter and Schmidhuber, 1997",
    ),
    (
        "GRU, last answer",
        partial(LastAnswer, nn.GRU),
        sentences,
        F.cross_entropy,
        "Cho et al., 2014",
    ),
)

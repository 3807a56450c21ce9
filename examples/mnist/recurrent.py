"""Recurrent networks that read a digit step by step, and must not forget how it began."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

#: Units of the recurrent layers.
WIDTH = 64


class Reader(nn.Module):
    """A recurrent layer over pieces of an image, and a linear layer on its last state."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.rnn = layer
        self.head = nn.Linear(layer.hidden_size, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of shape (batch, 10) for images of shape (batch, pixels)."""
        pieces = images.reshape(len(images), -1, self.rnn.input_size)
        states, _ = self.rnn(pieces)
        logits: Tensor = self.head(states[:, -1])
        return logits


def tanh_rnn(pixels: int) -> nn.RNN:
    """A recurrent tanh layer with PyTorch's initialisation, over `pixels` at a time."""
    return nn.RNN(pixels, WIDTH, batch_first=True)


def orthogonal_rnn(pixels: int) -> nn.RNN:
    """The same with an orthogonal recurrent weight (Saxe et al. 2014) and no biases."""
    return initialised(tanh_rnn(pixels), weight_hh=nn.init.orthogonal_)


def identity_rnn(pixels: int) -> nn.RNN:
    """A recurrent ReLU layer that copies its state (Le, Jaitly and Hinton 2015)."""
    layer = nn.RNN(pixels, WIDTH, nonlinearity="relu", batch_first=True)
    small = partial(nn.init.normal_, std=0.02 / math.sqrt(pixels))
    return initialised(layer, weight_hh=nn.init.eye_, weight_ih=small)


def initialised(layer: nn.RNN, **initialisations: Callable[[Tensor], object]) -> nn.RNN:
    """Fill the weights of the names given, and the biases with zeros."""
    for name, parameter in layer.named_parameters():
        fill = initialisations.get(name.removesuffix("_l0"))
        if fill is not None:
            fill(parameter)
        elif name.startswith("bias"):
            nn.init.zeros_(parameter)
    return layer


def lstm(pixels: int, *, steps: int | None = None) -> nn.LSTM:
    """An LSTM; with `steps` its forget gates are biased to remember so many (Tallec 2018)."""
    layer = nn.LSTM(pixels, WIDTH, batch_first=True)
    if steps is not None:
        for name, parameter in layer.named_parameters():
            if name.startswith("bias"):
                forget = parameter.data[WIDTH : 2 * WIDTH]
                forget.fill_(math.log(steps) if "_hh" in name else 0.0)
    return layer

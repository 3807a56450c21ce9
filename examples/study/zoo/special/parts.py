"""What small networks are made of: initialisations, residual branches, attention, convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.study.zoo.special.batches import CLASSES, WIDTH


def normal_(module: nn.Module, std: float = 0.02) -> None:
    """Draw weights as GPT-2 does: normal ones, biases at zero."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


def he_(module: nn.Module) -> None:
    """Draw weights after He et al.; biases at zero."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def zero_(*layers: nn.Module) -> None:
    """Set weights and biases to zero."""
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


def orthogonal(inputs: int, outputs: int, gain: float) -> nn.Linear:
    """Return a linear layer with an orthogonal weight."""
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def mlp(
    widths: tuple[int, ...], activation: Callable[[], nn.Module], change: Callable[..., Any] | None
) -> nn.Sequential:
    """Return linear layers with an activation between any two of them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), activation()]
    model = nn.Sequential(*layers[:-1])
    if change is not None:
        change(model)
    return model


class Residual(nn.Module):
    """x + scale * f(x), the scale learned where it has a start."""

    def __init__(self, body: nn.Module, scale: float | None = None, channels: int | None = None):
        super().__init__()
        self.body = body
        shape = (1,) if channels is None else (channels,)
        self.scale = None if scale is None else nn.Parameter(torch.full(shape, scale))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return x + (y if self.scale is None else self.scale * y)  # type: ignore[no-any-return]


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Attention(nn.Module):
    """Multi-head self-attention, with a low-rank addition to its queries and values if asked."""

    def __init__(self, width: int, heads: int = 4, causal: bool = False, rank: int = 0):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.project, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.down = nn.Linear(width, rank, bias=False) if rank else None
        self.up = nn.Linear(rank, 3 * width, bias=False) if rank else None

    def forward(self, x: Tensor) -> Tensor:
        every = self.project(x)
        if self.down is not None and self.up is not None:
            every = every + self.up(self.down(x))
        q, k, v = every.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.merge(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def feed_forward(width: int) -> nn.Sequential:
    """Return the two layers after an attention."""
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


def pre_norm(
    width: int, causal: bool = False, rank: int = 0, scale: float | None = None
) -> nn.Sequential:
    """Return a transformer block that normalises before its branches."""
    channels = None if scale is None else width
    attention = Attention(width, causal=causal, rank=rank)
    return nn.Sequential(
        Residual(nn.Sequential(nn.LayerNorm(width), attention), scale, channels),
        Residual(nn.Sequential(nn.LayerNorm(width), feed_forward(width)), scale, channels),
    )


def conv(inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """Return a convolution of 3 x 3."""
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=bias)


def pooled(channels: int) -> nn.Sequential:
    """Return a head of averages."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


def head() -> nn.Linear:
    """Return a linear head."""
    return nn.Linear(WIDTH, CLASSES)


def vision(*blocks: nn.Module, last: nn.Module) -> nn.Module:
    """Return blocks between patches of a picture and a head."""
    return nn.Sequential(
        nn.Conv2d(3, WIDTH, 8, 8),
        Apply(as_rows),
        *blocks,
        nn.LayerNorm(WIDTH),
        Apply(partial(torch.mean, dim=1)),
        last,
    )


def as_rows(images: Tensor) -> Tensor:
    return images.flatten(2).transpose(1, 2)


def frequencies(times: Tensor, width: int) -> Tensor:
    """Return sines and cosines of times."""
    rates = torch.exp(torch.linspace(0, math.log(1000), width // 2, device=times.device))
    angles = times.unsqueeze(-1) * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


group_norm: Callable[[int], nn.Module] = partial(nn.GroupNorm, 8)

"""Small networks and batches that the tests share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def mlp(
    activation: Callable[[], nn.Module] = nn.ReLU,
    *,
    hidden: int = 3,
    width: int = 32,
    inputs: int = 20,
    classes: int = 5,
) -> nn.Sequential:
    """Linear layers with an activation after each but the last."""
    layers: list[nn.Module] = []
    for size in [inputs, *[width] * (hidden - 1)]:
        layers += [nn.Linear(size, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, classes))


def batch(examples: int = 16, inputs: int = 20, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Random examples with random labels."""
    return torch.randn(examples, inputs), torch.randint(0, classes, (examples,))


def scalar_chain(links: int, weight: float, bias: float, activation: nn.Module | None) -> nn.Module:
    """`links` linear layers of one unit, in float64, all with the same weight and bias."""
    layers: list[nn.Module] = []
    for _ in range(links):
        layer = nn.Linear(1, 1, dtype=torch.float64)
        nn.init.constant_(layer.weight, weight)
        nn.init.constant_(layer.bias, bias)
        layers += [layer] if activation is None else [layer, activation]
    return nn.Sequential(*layers)

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


def total(outputs: Tensor) -> Tensor:
    """A loss whose gradient is 1 in every output."""
    return outputs.sum()


def constant(size: float = 1.0, *, inputs: int = 4, outputs: int = 4) -> nn.Sequential:
    """One linear layer of equal weights; on ONES its gradient of `total` is 1 in each element."""
    layer = nn.Linear(inputs, outputs, bias=False, dtype=torch.float64)
    nn.init.constant_(layer.weight, size)
    return nn.Sequential(layer)


#: On these every weight of `constant` has the same gradient.
ONES = torch.ones(1, 4, dtype=torch.float64)


def sigmoids(links: int = 12) -> nn.Module:
    """A chain of scalars with a sigmoid after each link, at its steepest on HALF."""
    layers: list[nn.Module] = []
    for layer in scalar_chain(links, weight=1.0, bias=-0.5, activation=None).children():
        layers += [layer, nn.Sigmoid()]
    return nn.Sequential(*layers)


#: What `sigmoids` maps to itself, so that each of its links passes on a quarter of the gradient.
HALF = torch.full((1, 1), 0.5, dtype=torch.float64)


def leaf_outputs(*shape: int) -> Tensor:
    return torch.randn(*shape, requires_grad=True)

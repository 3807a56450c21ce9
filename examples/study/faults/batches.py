"""Batches for the known faults; where a description has no data, synthetic ones of its shape."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from examples.mnist.digits import load_digits

SIZE = 128


@cache
def _digits() -> tuple[Tensor, Tensor]:
    return load_digits()


def digits(scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Images of shape (n, 784), pixels from 0 to `scale`, and labels."""
    images, labels = _digits()
    chosen = torch.randperm(len(labels))[:SIZE]
    return images[chosen] * scale, labels[chosen]


def zeros_and_ones(features: int | None = None) -> tuple[Tensor, Tensor]:
    """Digits below 5 against the others, (n, 1); the first principal directions with `features`."""
    images, labels = digits()
    if features is not None:
        images = images @ torch.randn(784, features) / 10
    return images, (labels < 5).float().unsqueeze(1)


def pictures() -> tuple[Tensor, Tensor]:
    """Images to reconstruct."""
    images, _ = digits()
    return images, images


def pairs() -> tuple[Tensor, Tensor]:
    """Images of shape (n, 2, 784), and whether both show the same; some are the same image."""
    images, labels = digits()
    other = torch.randperm(len(labels))
    other[:10] = torch.arange(10)
    return torch.stack([images, images[other]], 1), (labels == labels[other]).float()


def blobs() -> tuple[Tensor, Tensor]:
    """Three clusters in the plane."""
    labels = torch.randint(3, (SIZE,))
    angles = labels * (2 * math.pi / 3)
    return 4 * torch.stack([angles.cos(), angles.sin()], 1) + torch.randn(SIZE, 2), labels


def circles() -> tuple[Tensor, Tensor]:
    """A ring around another in the plane; targets of shape (n, 1)."""
    labels = torch.randint(2, (SIZE,)).float()
    angles = 2 * math.pi * torch.rand(SIZE)
    points = torch.stack([angles.cos(), angles.sin()], 1) * (1 - 0.6 * labels).unsqueeze(1)
    return points + 0.05 * torch.randn(SIZE, 2), labels.unsqueeze(1)


def xor() -> tuple[Tensor, Tensor]:
    """The four cases of exclusive or."""
    inputs = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    return inputs, torch.tensor([[0.0], [1.0], [1.0], [0.0]])


def table(features: int, scale: float = 1.0, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    """Random features and whether a random weighting of them is positive, (n, 1).

    Unscaled features lie around `offset`, each on a scale of its own of up to `scale`.
    """
    inputs = torch.randn(SIZE, features)
    targets = (inputs @ torch.randn(features, 1) > 0).float()
    scales = scale ** torch.linspace(0, 1, features)
    return (inputs + offset) * scales, targets


def iris(*, scaled: bool) -> tuple[Tensor, Tensor]:
    """Three kinds of flowers, as Fisher's in their means and spreads."""
    means = torch.tensor([[5.0, 3.4, 1.5, 0.2], [5.9, 2.8, 4.3, 1.3], [6.6, 3.0, 5.6, 2.0]])
    labels = torch.arange(3).repeat(50)
    inputs = means[labels] + torch.tensor([0.5, 0.3, 0.4, 0.2]) * torch.randn(150, 4)
    return (F.layer_norm(inputs.T, (150,)).T if scaled else inputs), labels


def thirds(features: int) -> tuple[Tensor, Tensor]:
    """Random features and a target between -1 and 1, (n, 1)."""
    inputs = torch.randn(SIZE, features)
    return inputs, torch.tanh(inputs @ torch.randn(features, 1))


def parabola(*, scaled: bool) -> tuple[Tensor, Tensor]:
    """5 x^2 and noise, for x up to 10."""
    x = torch.linspace(-10, 10, SIZE).unsqueeze(1)
    y = 5 * x.square() + torch.randn(SIZE, 1)
    return (x / 10, (y - y.mean()) / y.std()) if scaled else (x, y)


def prices(scale: float, offset: float) -> tuple[Tensor, Tensor]:
    """A smooth curve; inputs and targets on a scale of `scale` around `offset`."""
    x = torch.linspace(-1, 1, SIZE).unsqueeze(1)
    y = torch.sin(4 * x) + 0.05 * torch.randn(SIZE, 1)
    return offset + scale * x, offset + scale * y


def tokens() -> tuple[Tensor, Tensor]:
    """Four tokens each; the label is the first one's last digit."""
    drawn = torch.randint(50, (SIZE, 1)).expand(-1, 4)
    return drawn.contiguous(), drawn[:, 0] % 10


def memory(steps: int) -> tuple[Tensor, Tensor]:
    """Sequences of noise after a first step that says which of four classes it is."""
    labels = torch.randint(4, (SIZE,))
    inputs = torch.zeros(SIZE, steps, 4)
    inputs[:, 0] = F.one_hot(labels, 4).float()
    inputs[:, 1:] += 0.05 * torch.randn(SIZE, steps - 1, 4)
    return inputs.flatten(1), labels


def noise() -> tuple[Tensor, Tensor]:
    """What a generator starts from."""
    return torch.randn(SIZE, 16), torch.ones(SIZE, 1)


def shuffled() -> tuple[Tensor, Tensor]:
    """Digits with somebody else's labels."""
    images, labels = digits()
    return images, labels[torch.randperm(len(labels))]

"""MNIST digits in batches: the subset beside this file, or the full set."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets import MNIST

#: 2,000 training and 500 test digits; see data/README.md for where they come from.
SUBSET = Path(__file__).parent / "data"
BATCH = 100


def load_digits(root: Path = SUBSET, *, train: bool = True) -> tuple[Tensor, Tensor]:
    """Return images of shape (n, 784), scaled to [0, 1], and their labels.

    `root` is a folder that `torchvision.datasets.MNIST` reads; nothing is downloaded.
    """
    digits = MNIST(root, train=train, download=False)
    return digits.data.reshape(-1, 784) / 255, digits.targets


def batches(
    images: Tensor, labels: Tensor, *, epochs: int = 1, seed: int = 0
) -> list[tuple[Tensor, Tensor]]:
    """Return shuffled batches of 100 for some epochs."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(labels), generator=generator) for _ in range(epochs)]
    parts = [part for order in orders for part in torch.split(order, BATCH)]
    return [(images[part], labels[part]) for part in parts]

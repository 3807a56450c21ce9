"""The MNIST classifiers of the examples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

#: Fills a weight in place.
Initialisation = Callable[[Tensor], object]


class Classifier(nn.Module):
    """One hidden layer: 784-500-10 with ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 500)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(500, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of shape (batch, 10) for images of shape (batch, 784)."""
        logits: Tensor = self.fc2(self.relu(self.fc1(images)))
        return logits


def he(weight: Tensor, *, gain: float = 1.0) -> None:
    """He's initialisation for ReLU, variance 2 / fan_in, times `gain`."""
    nn.init.kaiming_normal_(weight, nonlinearity="relu")
    with torch.no_grad():
        weight.mul_(gain)


class DeepClassifier(nn.Module):
    """Hidden layers of equal width, all with one activation: ten of 500 units by default.

    `weights` initialises the weight of every hidden layer (`kaiming=True` is short for He's);
    without it PyTorch's default stands. `batch_norm` puts a norm between each layer and its
    activation.
    """

    def __init__(
        self,
        activation: Callable[[], nn.Module],
        *,
        kaiming: bool = False,
        weights: Initialisation | None = None,
        depth: int = 10,
        width: int = 500,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in [784, *[width] * (depth - 1)]:
            norm = [nn.BatchNorm1d(width)] if batch_norm else []
            layers += [nn.Linear(inputs, width), *norm, activation()]
        self.hidden = nn.Sequential(*layers)
        self.head = nn.Linear(width, 10)
        initialise = he if kaiming else weights
        if initialise is not None:
            for layer in layers:
                if isinstance(layer, nn.Linear):
                    initialise(layer.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of shape (batch, 10) for images of shape (batch, 784)."""
        logits: Tensor = self.head(self.hidden(images))
        return logits


def sigmoid_classifier() -> DeepClassifier:
    """Return ten hidden layers of sigmoids, through which next to no gradient comes."""
    return DeepClassifier(nn.Sigmoid)


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm, and the way around them: x + f(x).

    Where stride or width change, a 1x1 projection makes the shortcut fit. Without `shortcut` the
    block is f(x) alone.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module | None = None
        if shortcut and stride == 1 and inputs == outputs:
            self.shortcut = nn.Identity()
        elif shortcut:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, images: Tensor) -> Tensor:
        """Return feature maps, smaller by the stride."""
        branch = self.relu(self.norm1(self.conv1(images)))
        branch = self.norm2(self.conv2(branch))
        if self.shortcut is not None:
            branch = branch + self.shortcut(images)
        maps: Tensor = self.relu(branch)
        return maps


class DeepConvNet(nn.Module):
    """Blocks of two convolutions; the first three halve the image, from 28x28 down to 4x4."""

    def __init__(self, *, blocks: int, width: int, shortcuts: bool) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                Block(width if i else 1, width, stride=2 if i < 3 else 1, shortcut=shortcuts)
                for i in range(blocks)
            )
        )
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of shape (batch, 10) for images of shape (batch, 784)."""
        maps = self.blocks(images.reshape(-1, 1, 28, 28))
        logits: Tensor = self.head(maps.mean((2, 3)))
        return logits

"""The MNIST classifiers of the examples."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


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


class DeepClassifier(nn.Module):
    """Ten hidden layers of 500 units, all with one activation."""

    def __init__(self, activation: Callable[[], nn.Module], *, kaiming: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in [784, *[500] * 9]:
            layers += [nn.Linear(inputs, 500), activation()]
        self.hidden = nn.Sequential(*layers)
        self.head = nn.Linear(500, 10)
        if kaiming:
            for layer in layers[::2]:
                assert isinstance(layer, nn.Linear)
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of shape (batch, 10) for images of shape (batch, 784)."""
        logits: Tensor = self.head(self.hidden(images))
        return logits

"""The losses of known faults, and of their cured twins."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def scaled_loss(outputs: Tensor, labels: Tensor, factor: float) -> Tensor:
    return F.cross_entropy(outputs, labels) * factor


def keras_cross_entropy(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Keras's: of probabilities that are kept 1e-7 away from 0 and 1."""
    return F.nll_loss(probabilities.clamp(1e-7, 1 - 1e-7).log(), labels)


def keras_binary(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Keras's binary cross-entropy, clipped likewise."""
    return F.binary_cross_entropy(probabilities.clamp(1e-7, 1 - 1e-7), targets)


def naive_cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """The log of a softmax, in two steps."""
    return F.nll_loss(outputs.softmax(1).log(), labels)


def one_hot_error(outputs: Tensor, labels: Tensor) -> Tensor:
    """The squared error to one-hot labels."""
    return F.mse_loss(outputs, F.one_hot(labels, outputs.shape[1]).float())


def reconstruction_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs, targets)


def contrastive(distances: Tensor, same: Tensor) -> Tensor:
    """Hadsell's contrastive loss."""
    return torch.where(same > 0, distances, F.relu(2 - distances)).square().mean()


def saturating(logits: Tensor, _targets: Tensor) -> Tensor:
    """The generator's loss log(1 - D)."""
    return F.logsigmoid(-logits).mean()


def non_saturating(logits: Tensor, _targets: Tensor) -> Tensor:
    """The generator's loss -log D."""
    return -F.logsigmoid(logits).mean()


def broadcast_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """The squared error of (n, 1) against (n,): all pairs."""
    return (outputs - targets.flatten()).square().mean()

"""Random batches for the small networks, with the sizes and the losses that several share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from examples.study.network import Batch

COUNT = 16
CLASSES = 10
WIDTH = 64
LENGTH = 32
VOCABULARY = 128

BCE = F.binary_cross_entropy_with_logits


def vectors(inputs: int = WIDTH, classes: int = CLASSES, count: int = 64) -> Batch:
    """Return random vectors with random labels."""
    return torch.randn(count, inputs), torch.randint(classes, (count,))


def pictures(size: int = 32, channels: int = 3, count: int = COUNT) -> Batch:
    """Return random pictures with random labels."""
    return torch.randn(count, channels, size, size), torch.randint(CLASSES, (count,))


def pictures_twice(size: int = 32, channels: int = 3) -> Batch:
    """Return random pictures from 0 to 1 that are to be drawn again."""
    images = torch.rand(COUNT, channels, size, size)
    return images, images


def noisy_pictures(size: int = 32, channels: int = 3) -> Batch:
    """Return noisy pictures and times, and the noise that is to be foretold."""
    noise = torch.randn(COUNT, channels, size, size)
    times = torch.rand(COUNT)
    mixed = times.view(-1, 1, 1, 1)
    images = torch.rand(COUNT, channels, size, size)
    return ((1 - mixed) * images + mixed * noise, times), noise


def sentences(length: int = LENGTH, count: int = COUNT) -> Batch:
    """Return random sentences with random labels."""
    return torch.randint(VOCABULARY, (count, length)), torch.randint(CLASSES, (count,))


def next_words(length: int = LENGTH, count: int = 8) -> Batch:
    """Return random sentences and the same one word further."""
    words = torch.randint(VOCABULARY, (count, length + 1))
    return words[:, :-1], words[:, 1:]


def next_words_with_labels() -> Batch:
    """Return random sentences as a model of transformers takes them."""
    words = torch.randint(3, VOCABULARY, (8, LENGTH))
    return {"input_ids": words, "labels": words}, None


def points(inputs: int, outputs: int, count: int = 256) -> Batch:
    """Return points of a cube and values from 0 to 1 at them."""
    return torch.rand(count, inputs) * 2 - 1, torch.rand(count, outputs)


def sounds(length: int = 512) -> Batch:
    """Return random sounds in 64 levels, and the same one sample further."""
    levels = torch.randint(64, (4, length + 1))
    return levels[:, :-1], levels[:, 1:]


def unlabelled_vectors(size: int = 8) -> Batch:
    """Return random vectors without targets."""
    return torch.randn(64, size), None


def token_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the cross entropy over all words of all sentences."""
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())

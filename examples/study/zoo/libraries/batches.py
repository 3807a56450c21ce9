"""Random batches in which the targets follow from the inputs, so that a network can learn them."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from examples.study.network import Batch

CLASSES = 10
COUNT = 16
LENGTH = 64
VOCABULARY = 128
WIDTH = 64

BCE = F.binary_cross_entropy_with_logits


def words(length: int = LENGTH, count: int = 4, start: Tensor | None = None) -> Tensor:
    """Return sentences in which each word is foretold by the one before it."""
    walk = [torch.randint(VOCABULARY, (count,)) if start is None else start]
    for _ in range(length - 1):
        walk.append((5 * walk[-1] + 7) % VOCABULARY)
    return torch.stack(walk, 1)


def sentences(length: int = LENGTH, count: int = 4) -> Batch:
    """Return sentences for a model that works out its own loss."""
    return words(length, count), None


def next_words(length: int = LENGTH, count: int = 4) -> Batch:
    """Return sentences and the same one word further."""
    walk = words(length + 1, count)
    return walk[:, :-1], walk[:, 1:]


def same_words(length: int = LENGTH, count: int = 4) -> Batch:
    """Return sentences, and for each word the one after it in the walk, as a tagger is given."""
    walk = words(length, count)
    return walk, (5 * walk + 7) % VOCABULARY


def labelled_sentences(length: int = LENGTH, count: int = 8) -> Batch:
    """Return sentences with labels that the last word tells."""
    walk = words(length, count)
    return walk, walk[:, -1] % CLASSES


@cache
def _fixed(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def labelled(*shape: int, count: int = COUNT, classes: int = CLASSES) -> Batch:
    """Return noise of a shape around the pattern of each label, and the labels."""
    labels = torch.randint(classes, (count,))
    return torch.randn(count, *shape) + _fixed(classes, *shape)[labels], labels


def valued(*shape: int, outputs: int = 1, count: int = 64) -> Batch:
    """Return noise of a shape and smooth numbers that follow from it."""
    inputs = torch.randn(count, *shape)
    size = inputs[0].numel()
    return inputs, (inputs.flatten(1) @ _fixed(size, outputs) / size**0.5).sin()


def grey_pictures(channels: int = 1, size: int = 8, count: int = 32) -> Batch:
    """Return small smooth pictures with noise, for a density."""
    coarse = torch.rand(count, channels, 2, 2)
    smooth = F.interpolate(coarse, (size, size), mode="bilinear")
    return (smooth + torch.rand(count, channels, size, size) / 16).clamp(0, 1), None


def token_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the cross entropy over all words of all sentences."""
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())

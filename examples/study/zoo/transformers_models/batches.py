"""Random batches as architectures of transformers take them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from examples.study.network import Batch
from examples.study.zoo.transformers_models.sizes import (
    CLASSES,
    COUNT,
    FIRST_WORD,
    IGNORED,
    LENGTH,
    MASK,
    VOCABULARY,
)


def _words(length: int = LENGTH) -> Tensor:
    return torch.randint(FIRST_WORD, VOCABULARY, (COUNT, length))


def next_words(length: int = LENGTH) -> Batch:
    """Return random words that are to be foretold from those before."""
    words = _words(length)
    return {"input_ids": words, "labels": words}, None


def masked_words(length: int = LENGTH) -> Batch:
    """Return random words, every seventh masked and to be found."""
    words = _words(length)
    masked = torch.zeros_like(words, dtype=torch.bool)
    masked[:, ::7] = True
    return {
        "input_ids": words.masked_fill(masked, MASK),
        "labels": words.masked_fill(~masked, IGNORED),
    }, None


def masked_words_of_pairs(order: str) -> Batch:
    """Return masked words with the label of a pair of sentences under the key `order`."""
    inputs, _ = masked_words()
    return {**inputs, order: torch.randint(2, (COUNT,))}, None


def with_global_attention(batch: Callable[[], Batch]) -> Batch:
    """Return a batch whose first words attend to all others."""
    inputs, targets = batch()
    attention = torch.zeros(COUNT, LENGTH, dtype=torch.long)
    attention[:, 0] = 1
    return {**inputs, "global_attention_mask": attention}, targets


def replaced_words() -> Batch:
    """Return random words, each with whether it was replaced."""
    return {"input_ids": _words(), "labels": torch.randint(2, (COUNT, LENGTH))}, None


def permuted_words() -> Batch:
    """Return random words whose last eight are to be foretold without being seen."""
    words = _words()
    hidden = 8
    mask = torch.zeros(COUNT, LENGTH, LENGTH)
    mask[:, :, -hidden:] = 1
    targets = torch.zeros(COUNT, hidden, LENGTH)
    targets[:, range(hidden), range(LENGTH - hidden, LENGTH)] = 1
    return {
        "input_ids": words,
        "perm_mask": mask,
        "target_mapping": targets,
        "token_type_ids": torch.arange(LENGTH)
        .div(LENGTH // 2, rounding_mode="floor")
        .repeat(COUNT, 1),
        "labels": words[:, -hidden:],
    }, None


def labelled_words() -> Batch:
    """Return random sentences with random labels."""
    return {"input_ids": _words(), "labels": torch.randint(CLASSES, (COUNT,))}, None


def translated_words() -> Batch:
    """Return random sentences and what they are to become."""
    return {"input_ids": _words(), "labels": _words(16)}, None


def labelled_pictures(size: int = 32) -> Batch:
    """Return random pictures with random labels."""
    return {
        "pixel_values": torch.randn(COUNT, 3, size, size),
        "labels": torch.randint(CLASSES, (COUNT,)),
    }, None


def masked_pictures(size: int = 32, patch: int = 8) -> Batch:
    """Return random pictures with half of their patches masked."""
    patches = (size // patch) ** 2
    masked = torch.zeros(COUNT, patches, dtype=torch.bool)
    masked[:, ::2] = True
    return {"pixel_values": torch.randn(COUNT, 3, size, size), "bool_masked_pos": masked}, None


def pictures_alone(size: int = 32) -> Batch:
    """Return random pictures."""
    return {"pixel_values": torch.randn(COUNT, 3, size, size)}, None


def masked_films() -> Batch:
    """Return random films of four frames with half of their tubes masked."""
    masked = torch.zeros(COUNT, 2 * 16, dtype=torch.bool)
    masked[:, ::2] = True
    return {"pixel_values": torch.randn(COUNT, 4, 3, 32, 32), "bool_masked_pos": masked}, None


def captioned_pictures(size: int = 32) -> Batch:
    """Return random pictures and captions that are to find each other."""
    words = _words(16)
    words[:, -1] = 2
    return {
        "input_ids": words,
        "pixel_values": torch.randn(COUNT, 3, size, size),
        "return_loss": True,
    }, None


def transcribed_sounds(samples: int = 4000) -> Batch:
    """Return random sounds with random transcripts."""
    return {
        "input_values": torch.randn(COUNT, samples),
        "labels": torch.randint(1, 32, (COUNT, 12)),
    }, None


def transcribed_spectra(bins: int, frames: int, words: int = 12, width: int = 0) -> Batch:
    """Return random spectra with random transcripts; time comes last where `width` is 0."""
    shape = (COUNT, frames, width) if width else (COUNT, bins, frames)
    return {
        "input_features": torch.randn(*shape),
        "labels": torch.randint(FIRST_WORD, 32, (COUNT, words)),
    }, None


def labelled_spectra() -> Batch:
    """Return random spectra with random labels."""
    return {
        "input_values": torch.randn(COUNT, 64, 32),
        "labels": torch.randint(CLASSES, (COUNT,)),
    }, None


def contrasted_sounds() -> Batch:
    """Return random sounds with masked spans, and wrong answers to tell from the right ones."""
    frames = 99
    masked = torch.zeros(COUNT, frames, dtype=torch.long)
    masked[:, 10:30] = masked[:, 60:75] = 1
    return {
        "input_values": torch.randn(COUNT, 4000),
        "mask_time_indices": masked,
        "sampled_negative_indices": torch.randint(COUNT * frames, (COUNT, frames, 10)),
    }, None


def past_and_future() -> Batch:
    """Return random time series with what comes next."""
    return {
        "past_values": torch.randn(COUNT, 32, 3),
        "future_values": torch.randn(COUNT, 8, 3),
    }, None

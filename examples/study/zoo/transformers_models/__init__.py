"""Healthy networks: architectures of transformers, small and at their initialisation.

Each comes with its own loss, and with a batch that reaches all its parameters where there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from examples.study.network import Batch, Network
from examples.study.zoo.transformers_models.batches import next_words, translated_words
from examples.study.zoo.transformers_models.causal import CAUSAL
from examples.study.zoo.transformers_models.others import OTHERS
from examples.study.zoo.transformers_models.sizes import Options
from examples.study.zoo.transformers_models.text import ENCODERS, TRANSLATORS
from examples.study.zoo.transformers_models.vision import VISION


def _built(architecture: str, options: Options) -> nn.Module:
    import transformers

    kind = getattr(transformers, architecture)
    model: nn.Module = kind(kind.config_class(**options))
    return model


def _network(name: str, architecture: str, options: Options, batch: Callable[[], Batch]) -> Network:
    return Network(
        name=name,
        family="transformers",
        build=partial(_built, architecture, options),
        batch=batch,
        source=f"transformers.{architecture}",
    )


def transformers_networks() -> tuple[Network, ...]:
    """Return the architectures of all tables."""
    entries = [
        *((name, *entry, next_words) for name, entry in CAUSAL.items()),
        *((name, *entry, translated_words) for name, entry in TRANSLATORS.items()),
        *((name, *entry) for table in (ENCODERS, VISION, OTHERS) for name, entry in table.items()),
    ]
    return tuple(_network(*entry) for entry in entries)

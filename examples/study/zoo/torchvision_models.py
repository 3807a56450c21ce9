"""Healthy networks: the classification architectures of torchvision at their initialisation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from examples.study.network import Batch, Network

CLASSES = 1000

#: What is left out, and why: weights and gradients alone take 5 GiB, a copy for a second look and
#: its optimizer three times that.
EXCLUDED: Mapping[str, str] = {
    "regnet_y_128gf": "645 million parameters",
    "vit_h_14": "633 million parameters",
}

#: Side of the images, and how many, where 8 of 64 pixels do not do.
IMAGES: Mapping[str, tuple[int, int]] = {
    "alexnet": (96, 8),
    "inception_v3": (299, 4),
    "maxvit_t": (224, 4),
    "squeezenet1_0": (96, 8),
    "squeezenet1_1": (96, 8),
    "vit_b_32": (128, 8),
    "vit_l_16": (64, 4),
    "vit_l_32": (128, 4),
}

#: Weight of the auxiliary classifiers' losses, as in the papers.
AUXILIARY: Mapping[str, float] = {"googlenet": 0.3, "inception_v3": 0.4}


def pictures(size: int, count: int, classes: int = CLASSES) -> Batch:
    """Return random square images with random labels."""
    return torch.randn(count, 3, size, size), torch.randint(classes, (count,))


def with_auxiliary(outputs: Any, targets: Tensor, weight: float) -> Tensor:
    """Add the losses of the auxiliary classifiers to that of the main one."""
    main, *others = (cross_entropy(o, targets) for o in outputs if o is not None)
    return main + weight * sum(others, torch.zeros(()))


def _built(name: str, **options: Any) -> nn.Module:
    from torchvision.models import get_model

    model: nn.Module = get_model(name, weights=None, **options)
    return model


def _network(name: str) -> Network:
    size, count = IMAGES.get(name, (64, 8))
    options: dict[str, Any] = {}
    if name.startswith("vit_"):
        options["image_size"] = size
    if name in AUXILIARY:
        options["init_weights"] = True
    loss = partial(with_auxiliary, weight=AUXILIARY[name]) if name in AUXILIARY else cross_entropy
    return Network(
        name=name,
        family="torchvision",
        build=partial(_built, name, **options),
        batch=partial(pictures, size, count),
        loss=loss,
        source=f"torchvision.models.{name}",
    )


def torchvision_networks() -> tuple[Network, ...]:
    """Return every classification architecture but the EXCLUDED ones."""
    from torchvision import models

    return tuple(_network(n) for n in models.list_models(module=models) if n not in EXCLUDED)

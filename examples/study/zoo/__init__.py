"""Healthy networks at their initialisation: what a linter of gradients must not call sick."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from examples.study.network import Network
from examples.study.zoo.libraries import LIBRARIES, library_networks
from examples.study.zoo.special import special_networks
from examples.study.zoo.timm_models import timm_networks
from examples.study.zoo.torchvision_models import torchvision_networks
from examples.study.zoo.transformers_models import transformers_networks


@dataclass(frozen=True)
class Family:
    """Networks and the libraries that some of them cannot be built without."""

    networks: Callable[[], tuple[Network, ...]]
    libraries: tuple[str, ...] = ()


FAMILIES: Mapping[str, Family] = {
    "torchvision": Family(torchvision_networks, ("torchvision",)),
    "timm": Family(timm_networks, ("timm",)),
    "transformers": Family(transformers_networks, ("transformers",)),
    "libraries": Family(library_networks, LIBRARIES),
    "special": Family(special_networks, ("torchvision", "peft", "transformers")),
}


def missing_libraries() -> dict[str, tuple[str, ...]]:
    """Return the libraries that are not installed, by the family that is left out for it."""
    missing = {
        name: tuple(library for library in family.libraries if find_spec(library) is None)
        for name, family in FAMILIES.items()
    }
    return {name: libraries for name, libraries in missing.items() if libraries}


def healthy_networks() -> tuple[Network, ...]:
    """Return the networks of every family whose libraries are installed; none is built yet."""
    missing = missing_libraries()
    return tuple(
        network
        for name, family in FAMILIES.items()
        if name not in missing
        for network in family.networks()
    )

"""Healthy networks that start at zero somewhere, or are the usual small ones of their field."""

from __future__ import annotations

from examples.study.network import Network
from examples.study.zoo.special.near_zero import NEAR_ZERO
from examples.study.zoo.special.pictures import PICTURES
from examples.study.zoo.special.sequences import SEQUENCES
from examples.study.zoo.special.vectors import MLPS


def special_networks() -> tuple[Network, ...]:
    """Return the networks of all tables."""
    return tuple(
        Network(name, "special", build, batch, loss, source)
        for name, build, batch, loss, source in (*NEAR_ZERO, *MLPS, *PICTURES, *SEQUENCES)
    )

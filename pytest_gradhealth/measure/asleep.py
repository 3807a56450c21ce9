"""Layers that return nothing but zeros, or get them, and yet pass gradient on."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from pytest_gradhealth.measure.recorder import PARAMETER
from pytest_gradhealth.results.path import FAINT, PathPoint

if TYPE_CHECKING:
    from pytest_gradhealth.measure.paths import Network


def asleep(
    network: Network, carrying: Collection[int], idle: Collection[str]
) -> tuple[PathPoint, ...]:
    """Return the points that zeros go through on all ways from a first layer, in path order.

    Their slope is a surrogate, as that of spiking neurons, so that they can wake. The weights of
    `idle` modules get no gradient: where what they make does, they have seen nothing but zeros.
    Each call of a layer counts, also those that are steps of one path.
    """
    silent = {m for m in network.marks if _is_silent(network.points[m], idle)}
    found: dict[PathPoint, None] = {}
    for source in network.tree.sources(carrying) if silent else ():
        found.update(dict.fromkeys(_behind(network, source, silent)))
    return tuple(found)


def _is_silent(point: PathPoint, idle: Collection[str]) -> bool:
    if point.width is None and point.type != PARAMETER:
        return point.activation == 0
    return point.norm > 0 and point.name in idle


def _behind(network: Network, source: int, silent: Collection[int]) -> Iterator[PathPoint]:
    """From the first silent point on the way that gradient gets past; behind it, all get zeros.

    What comes to it, times its gradient, is more than what number formats round to zero.
    """
    found = False
    for far, near in pairwise(network.tree.chain(source, network.marks).marks):
        before, point = network.points[far], network.points[near]
        if near in silent and before.norm > 0:
            found = found or before.activation * point.norm > FAINT
            if found:
                yield point

"""Stretches without layers, on which what comes through is multiplied by what others have made.

A loop of gates without weights of their own is one, as a scan or a product in closed form.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from typing import TYPE_CHECKING

from pytest_gradhealth.measure.loop import Gates, Loop, call_of
from pytest_gradhealth.measure.reuse import ONE_STEP
from pytest_gradhealth.results.names import ancestry

if TYPE_CHECKING:
    from pytest_gradhealth.measure.paths import Network

#: The share of the gradient behind a stretch that counts as lost: less than one layer leaves of it.
LOST = 1e-2


def gated(network: Network, far: int, near: Sequence[int], known: Set[str]) -> Loop | None:
    """What may be a loop of gates between marks of a path, of which the far one gets little.

    The near ones are the next mark, or all ends that the path parts into. Where layers of loops
    that are `known` are called again on the way, these show the steps; and where weights without
    layers are, one after the other, it is deep.
    """
    points = network.points
    if not is_lost(network, far, near):
        return None
    between = network.tree.between(far, near)
    called = Counter(points[mark].name for mark in network.marks & between.marks)
    again = any(called[name] > 1 for name in known)
    if not between.joined or again or _takes_weights(network, between.taken, called.keys()):
        return None
    behind = network.tree.behind([[far]])
    on_ways = {points[m].key for m in network.marks if network.tree.depends(m, behind)}
    ends = frozenset(points[mark].key for mark in near)
    gates = Gates(points[far].key, ends, frozenset(on_ways))
    calls = frozenset(call_of(points[mark]) for mark in near)
    return Loop(far, max(near, key=lambda mark: points[mark].norm), calls, (), gates=gates)


def is_lost(network: Network, far: int, near: Sequence[int]) -> bool:
    """Whether a mark gets little of what comes to others."""
    whole = math.hypot(*(network.points[mark].norm for mark in near))
    return network.points[far].norm < LOST * whole


def _takes_weights(network: Network, taken: Iterable[Iterable[int]], layers: Set[str]) -> bool:
    """Whether more weights are taken that are of none of some layers than one step takes."""
    owners = network.owners
    bare = {
        leaves
        for leaves in map(frozenset(owners).intersection, taken)
        if any(layers.isdisjoint(ancestry(owners[leaf])) for leaf in leaves)
    }
    return len(bare) > ONE_STEP

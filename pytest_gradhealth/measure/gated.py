"""Stretches without layers, on which what comes through is multiplied by what others have made.

A loop of gates without weights of their own is one, as a scan or a product in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_gradhealth.measure.loop import Gates, Loop, call_of
from pytest_gradhealth.results.names import ancestry

if TYPE_CHECKING:
    from pytest_gradhealth.measure.paths import Network

#: The share of the gradient behind a stretch that counts as lost: less than one layer leaves of it.
LOST = 1e-2
#: The share that a layer gets which may make gates, and is alive.
ALIVE = 1e-4


def gated(network: Network, far: int, near: Sequence[int]) -> Loop | None:
    """What may be a loop of gates between marks of a path, of which the far one gets little.

    The near ones are the next mark, or all ends that the path parts into. Gates are made by layers
    that join the way from beside or, where it gets past all of them, that lie between; those that
    get no gradient themselves make none. Calls of a layer, one after the other, show the steps of
    the loop that they are in.
    """
    points, whole = network.points, math.hypot(*(network.points[mark].norm for mark in near))
    again = len(near) == 1 and len(network.calls[points[near[0]].key[::2]]) > 1
    if again or points[far].norm >= LOST * whole:
        return None
    stretch = network.tree.stretch(far, near, network.marks)
    layers = {points[mark].name for mark in (*stretch.within, *near)}
    taken, made = (
        any(layers.isdisjoint(ancestry(network.owners[w])) for w in leaves & network.owners.keys())
        for leaves in (stretch.leaves, stretch.made)
    )
    felt: dict[str, float] = {}
    for mark in stretch.beside | (stretch.within if stretch.direct else frozenset()):
        name = points[mark].name
        felt[name] = math.hypot(felt.get(name, 0.0), points[mark].norm / whole)
    alive = {name: share for name, share in felt.items() if share >= ALIVE}
    bare = made and not taken and alive == felt
    if not (alive or bare):
        return None
    ends = frozenset(call_of(points[mark]) for mark in near)
    gates = Gates(call_of(points[far]), ends, alive, bare)
    return Loop(far, max(near, key=lambda mark: points[mark].norm), ends, (), gates=gates)

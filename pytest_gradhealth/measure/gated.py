"""Stretches without layers, on which what comes through is multiplied by what others have made.

A loop of gates without weights of their own is one, as a scan or a product in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_gradhealth.measure.loop import Loop, call_of
from pytest_gradhealth.results.names import ancestry

if TYPE_CHECKING:
    from pytest_gradhealth.measure.paths import Network

#: The share of the gradient behind a stretch that counts as lost: less than one layer leaves of it.
LOST = 1e-2
#: The share that a layer gets which makes a gate, or is between two of such loops, and is alive.
ALIVE = 1e-4
#: Layers up to which it is told whether they all lose their gradient so.
MOST = 16


def gated(network: Network, far: int, near: Sequence[int]) -> Loop | None:
    """What may be a loop of gates between marks of a path, of which the far one gets little.

    The near ones are the next mark, or all ends that the path parts into. No layer may be what
    loses it: those in between, which a stack of such loops has, and those that join the way from
    beside get their gradient, or lose it in such a loop as well. Calls of a layer, one after the
    other, show the steps of the loop that they are in.
    """
    again = len(near) == 1 and len(network.calls[network.points[near[0]].key[::2]]) > 1
    found = None if again else _without_layers(network, far, near)
    if found is None or not _are_lost_between_layers(network, far, found.faint):
        return None
    points = network.points
    return Loop(
        far,
        max(near, key=lambda mark: points[mark].norm),
        frozenset(call_of(points[mark]) for mark in near),
        (),
        gate=call_of(points[far]),
        beside=frozenset(call_of(points[mark]) for mark in found.beside),
        felt=max((points[mark].norm for mark in found.beside), default=0.0) / _norm(network, near),
        bare=found.bare,
    )


def _norm(network: Network, marks: Iterable[int]) -> float:
    """The L2 norm of what some marks get together."""
    return math.hypot(*(network.points[mark].norm for mark in marks))


def _are_lost_between_layers(network: Network, far: int, faint: frozenset[int]) -> bool:
    """Whether faint marks on or beside a way begin such stretches as well, in some order."""
    needs, asked = {far: faint}, [*faint]
    while asked:
        mark = asked.pop()
        if mark in needs:
            continue
        chain = network.tree.chain(mark, network.marks).marks[:2]
        found = _without_layers(network, mark, chain[1:]) if len(chain) == 2 else None
        if found is None or len(needs) > MOST:
            return False
        needs[mark] = found.faint
        asked += found.faint
    told: set[int] = set()
    while more := {mark for mark, others in needs.items() if mark not in told and told >= others}:
        told |= more
    return far in told


@dataclass(frozen=True)
class _Stretch:
    """A stretch that loses much, the marks on it and beside it that get little, and what joins it.

    Layers, by their marks, or weights that are `bare` of them, where the way itself takes none.
    """

    faint: frozenset[int]
    beside: frozenset[int]
    bare: bool


def _without_layers(network: Network, far: int, near: Sequence[int]) -> _Stretch | None:
    """The stretch between marks, if it loses much and something joins it."""
    points = network.points
    whole = _norm(network, near)
    if points[far].norm >= LOST * whole:
        return None
    stretch = network.tree.stretch(far, near, network.marks)
    layers = {points[mark].name for mark in (*stretch.within, *near)}
    taken, made = (
        any(layers.isdisjoint(ancestry(network.owners[leaf])) for leaf in leaves)
        for leaves in (stretch.leaves, stretch.made)
    )
    beside = {mark for mark in stretch.beside if points[mark].name != points[far].name}
    bare = made and not taken
    if not (beside or bare):
        return None
    faint = (mark for mark in stretch.within | beside if points[mark].norm < ALIVE * whole)
    return _Stretch(frozenset(faint), frozenset(beside), bare)

"""Stretches without layers, on which what comes through is multiplied by what others have made.

A loop of gates without weights of their own is one, as a scan or a product in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_gradhealth.measure.loop import Loop, call_of
from pytest_gradhealth.results.names import ancestry

if TYPE_CHECKING:
    from pytest_gradhealth.measure.paths import Network

#: The share of the gradient behind a stretch that counts as lost: less than one layer leaves of it.
LOST = 1e-2
#: The share that a layer gets which makes a gate, and is alive.
ALIVE = 1e-3
#: Layers up to which it is told whether they all lose their gradient so.
MOST = 16


def gated(network: Network, far: int, near: int) -> Loop | None:
    """What may be a loop of gates between two marks of a path, of which the far one gets little.

    No layer may be what loses it: those in between, which a stack of such loops has, and those that
    join the way from beside get their gradient, or lose it in such a loop as well.
    """
    found = _without_layers(network, far, near)
    if found is None or not _are_lost_between_layers(network, far, found.faint):
        return None
    points = network.points
    beside = frozenset(call_of(points[mark]) for mark in found.beside)
    start = frozenset([call_of(points[near])])
    return Loop(far, near, start, (), gate=call_of(points[far]), beside=beside, bare=found.bare)


def _are_lost_between_layers(network: Network, far: int, faint: frozenset[int]) -> bool:
    """Whether faint marks on or beside a way begin such stretches as well, in some order."""
    needs, asked = {far: faint}, [*faint]
    while asked:
        mark = asked.pop()
        if mark in needs:
            continue
        chain = network.tree.chain(mark, network.marks).marks[:2]
        found = _without_layers(network, *chain) if len(chain) == 2 else None
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


def _without_layers(network: Network, far: int, near: int) -> _Stretch | None:
    """The stretch between two marks, if it loses much and something joins it."""
    points = network.points
    whole = points[near].norm
    if points[far].norm >= LOST * whole:
        return None
    stretch = network.tree.stretch(far, near, network.marks)
    layers = {points[mark].name for mark in (*stretch.within, near)}
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

"""What only the first steps of loops have brought a gradient to, and later ones have forgotten."""

from __future__ import annotations

from collections.abc import Collection

from pytest_gradhealth.measure.loop import call_of
from pytest_gradhealth.measure.paths import Network, loops_crossed


def forgotten(network: Network, fed: Collection[str]) -> tuple[str, ...]:
    """Return the modules whose gradient all comes through the first steps of loops that are fed.

    What gets none of what comes to the loop is dead before it.
    """
    loops = [loop for loop, *_ in loops_crossed(network) if not loop.names.isdisjoint(fed)]
    begun = {call for loop in loops for call in loop.calls - loop.later}
    steps = {mark for mark, point in network.points.items() if call_of(point) in begun}
    doors = {loop.door for loop in loops}
    alive = network.tree.short_of(doors | steps) - doors
    names = {network.points[mark].name for mark in network.marks & alive}
    gone = {network.points[mark].name for mark in network.marks} - names
    if any(network.points[door].norm for door in doors):
        gone &= {point.name for point in network.points.values() if point.norm}
    return tuple(sorted(gone))

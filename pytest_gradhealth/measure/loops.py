"""Loops that a gradient path runs through: layers, or weights, used again on what they returned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from pytest_gradhealth.measure.reuse import STEPS, in_a_row
from pytest_gradhealth.results.names import ancestry

if TYPE_CHECKING:
    from pytest_gradhealth.measure.paths import Network

#: One call of a module: its name, and the number of the call.
Call = tuple[str, int]


@dataclass(frozen=True)
class Loop:
    """Layers that are called in turns, again and again, or one that has all the steps before it.

    As a fused one has, or a layer behind a loop that is written out with weights and no layers. A
    path ends at the mark `door`, with the first step or right before such a layer, and another
    begins at `start`. `calls` are all that the loop consists of, `later` those behind the first
    step, and what lies between them. A loop without layers is one of `weights`, by their ids.
    """

    door: int
    start: int
    calls: frozenset[Call]
    later: frozenset[Call]
    weights: frozenset[int] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        """The names of its modules."""
        return frozenset(name for name, _ in self.calls)


def loops_behind(network: Network, mark: int) -> list[Loop]:
    """Return the loops that a mark only leads into the first step of, in the order of the forward.

    A cell is one, if its first step gets what an encoder has made, and so is a layer that is
    repeated in depth. What leads into all steps is their data, and sees no loop.
    """
    chain = network.tree.chain(mark, network.marks).marks
    rows = _rows(network, mark)
    inside = []
    for far, start in pairwise(chain):
        weights = _used(rows, far, start, STEPS)
        if network.points[start].name in network.sequences or weights:
            inside.append(_inside(network, mark, start, weights))
    turns = [*_in_turns(_repeated(network, mark, rows))]
    found = (_loop(network, mark, turn, turns) for turn in turns if mark not in turn)
    return sorted((*inside, *filter(None, found)), key=lambda loop: loop.start)


def _rows(network: Network, mark: int) -> Mapping[int, Counter[int]]:
    """How often in a row ways from a mark use parameters of modules that are not called again."""
    again = {name for (name, _), calls in network.calls.items() if len(calls) > 1}
    own = {leaf for leaf, owner in network.owners.items() if owner not in again}
    return in_a_row(network.tree, mark, own)


def _used(rows: Mapping[int, Counter[int]], far: int, near: int, times: int) -> frozenset[int]:
    """The parameters that ways between two marks use so many times in a row."""
    none: Counter[int] = Counter()
    between = rows.get(near, none) - rows.get(far, none)
    return frozenset(leaf for leaf, used in between.items() if used >= times)


def _repeated(network: Network, mark: int, rows: Mapping[int, Counter[int]]) -> Iterator[list[int]]:
    """The marks of each layer all calls of which depend on a mark, and the last on the first.

    Of the layers with weights, or with the same ones in between.
    """
    tree, points = network.tree, network.points
    modules: dict[str, list[int]] = {}
    for other in sorted(network.marks):
        modules.setdefault(points[other].name, []).append(other)
    weighty = {owner for name, size in network.elements.items() if size for owner in ancestry(name)}
    behind = tree.behind([[mark]])
    found = [
        marks
        for name, marks in modules.items()
        if (name in weighty or _used(rows, marks[0], marks[-1], STEPS - 1))
        and points[marks[-1]].call > points[marks[0]].call
        and tree.depends(marks[0], behind)
    ]
    again = tree.behind([marks[:1] for marks in found])
    for place, marks in enumerate(found):
        if tree.depends(marks[-1], again) >> place & 1:
            yield marks


def _in_turns(modules: Iterable[list[int]]) -> Iterator[list[int]]:
    """The marks of layers together that are called in turns, and not one after the other."""
    turns: list[int] = []
    for marks in sorted(modules):
        if turns and marks[0] > max(turns):
            yield turns
            turns = []
        turns += marks
    if turns:
        yield turns


def _loop(
    network: Network, mark: int, turn: Sequence[int], turns: Iterable[Sequence[int]]
) -> Loop | None:
    """What some marks make of a loop, None if the mark leads into further steps of it."""
    tree = network.tree
    first = _first_step(network, turn)
    later = {*turn}.difference(first)
    chain = tree.chain(mark, network.marks).marks
    between = [m for m in chain if min(later) < m < max(later)]
    aside = [other for each in turns if each is not turn for other in _first_step(network, each)]
    if tree.gets_past(mark, turn, later, aside):
        return None
    behind = tree.behind([[each] for each in first])
    starts = [each for place, each in enumerate(first) if tree.depends(each, behind) == 1 << place]
    door, start = (max(marks, key=lambda m: network.points[m].norm) for marks in (first, starts))
    return Loop(
        door,
        start,
        frozenset(_call(network, each) for each in turn),
        frozenset(_call(network, each) for each in (*later, *between)),
    )


def _first_step(network: Network, turn: Sequence[int]) -> list[int]:
    """The marks of the first call of each layer."""
    begun: dict[str, int] = {}
    for mark in sorted(turn):
        begun.setdefault(network.points[mark].name, network.points[mark].call)
    return [m for m in turn if network.points[m].call == begun[network.points[m].name]]


def _inside(network: Network, mark: int, start: int, weights: frozenset[int]) -> Loop:
    """All that lies right before a layer or inside it as a loop, which a mark leads into."""
    tree, points = network.tree, network.points
    behind = tree.behind([[mark]])
    doors = [m for m in tree.inputs(start, network.marks) if tree.depends(m, behind)]
    call = frozenset([_call(network, start)])
    return Loop(max(doors, key=lambda door: points[door].norm), start, call, call, weights)


def _call(network: Network, mark: int) -> Call:
    point = network.points[mark]
    return point.name, point.call

"""Loops that a gradient path runs through: layers, or weights, used again on what they returned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from pytest_gradhealth.measure.gated import gated, is_lost
from pytest_gradhealth.measure.loop import Loop, call_of
from pytest_gradhealth.measure.reuse import STEPS, InARow, in_a_row
from pytest_gradhealth.results.names import ancestry

if TYPE_CHECKING:
    from pytest_gradhealth.measure.paths import Network


def loops_behind(network: Network, mark: int) -> list[Loop]:
    """Return the loops that a mark only leads into the first step of, in the order of the forward.

    A cell is one, if its first step gets what an encoder has made, and so is a layer that is
    repeated in depth. What leads into all steps is their data, and sees no loop. Loops side by side
    that all begin with the same are one.
    """
    used, begun = _used_by(network, mark), _under_way(network, mark)
    rows = used.rows
    turns = [*_in_turns(_repeated(network, mark, rows))]
    loops = []
    for turn in turns:
        names = {network.points[each].name for each in turn}
        if begun.isdisjoint(names):
            loop = _loop(network, mark, turn, turns)
            loops += [loop] if loop is not None else []
        else:
            begun |= names
    names = begun.union(*(loop.names for loop in loops))
    chain = network.tree.chain(mark, network.marks).marks
    for far, near in pairwise(chain):
        loop = _inside(network, mark, near)
        if loop is None:
            weights = {w for w in _used(rows, far, near, STEPS) if network.owners[w] not in names}
            shared = len(_between(network, far, near, rows, weights)) >= STEPS
            if not (shared or weights <= used.made):
                loop = _side_by_side(network, far, rows, weights)
        loop = loop or gated(network, far, [near], names - _lost_before(network, far, loops))
        loops += [loop] if loop is not None else []
    ends = _ends(network, chain[-1])
    names -= _lost_before(network, chain[-1], loops)
    loop = gated(network, chain[-1], ends, names) if len(ends) > 1 else None
    loops += [loop] if loop is not None else []
    return sorted(loops, key=lambda loop: loop.door)


def _lost_before(network: Network, far: int, loops: Iterable[Loop]) -> set[str]:
    """The modules of loops whose first step gets much that a mark does not, which leads there."""
    lost = (loop for loop in loops if is_lost(network, far, [loop.door]))
    return {name for loop in lost for name in loop.names}


def _ends(network: Network, mark: int) -> list[int]:
    """The last marks that a mark leads to, as several heads are."""
    behind = network.tree.behind([[mark]])
    outermost = network.tree.outermost(network.marks)
    return [end for end in outermost if network.tree.depends(end, behind)]


def _under_way(network: Network, mark: int) -> set[str]:
    """The modules that a mark leads into when they have been called, and have led there, before."""
    tree, points = network.tree, network.points
    behind = tree.behind([[mark]])
    before = [m for m in network.marks if m == mark or not tree.depends(m, behind)]
    names = sorted({points[m].name for m in before})
    groups = [[m for m in before if points[m].name == name] for name in names]
    led = tree.behind(groups)
    return {
        points[m].name
        for m in network.marks.difference(before)
        if points[m].name in names and tree.depends(m, led) >> names.index(points[m].name) & 1
    }


def _used_by(network: Network, mark: int) -> InARow:
    """How often in a row ways from a mark use parameters; a fused layer does so in each step."""
    times = {w: STEPS if o in network.sequences else 1 for w, o in network.owners.items()}
    return in_a_row(network.tree, mark, times)


def _used(rows: Mapping[int, Counter[int]], far: int, near: int, times: int) -> frozenset[int]:
    """The parameters that ways between two marks use so many times in a row."""
    none: Counter[int] = Counter()
    between = rows.get(near, none) - rows.get(far, none)
    return frozenset(leaf for leaf, used in between.items() if used >= times)


def _repeated(network: Network, mark: int, rows: Mapping[int, Counter[int]]) -> Iterator[list[int]]:
    """The marks of each layer's calls that depend on a mark, where the last depends on the first.

    Of the layers with weights, or with the same ones in between that no layer has.
    """
    tree, points = network.tree, network.points
    behind = tree.behind([[mark]])
    modules: dict[str, list[int]] = {}
    for other in sorted(network.marks):
        if tree.depends(other, behind):
            modules.setdefault(points[other].name, []).append(other)
    weighty = {owner for name in network.elements for owner in ancestry(name)}
    bare = {w for w, owner in network.owners.items() if len(modules.get(owner, ())) < 2}
    found = [
        marks
        for name, marks in modules.items()
        if (name in weighty or bare & _used(rows, marks[0], marks[-1], STEPS - 1))
        and points[marks[-1]].call > points[marks[0]].call
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
    if is_shared(network, mark, turn):
        return None
    first = _first_step(network, turn)
    at_once = {*first, *tree.joined(mark, turn)}
    if 2 * len(at_once) <= len(turn):  # as the calls of one Runge-Kutta step
        first = sorted(at_once)
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
        frozenset(call_of(network.points[each]) for each in turn),
        (frozenset(call_of(network.points[each]) for each in (*later, *between)),),
    )


def is_shared(network: Network, mark: int, turn: Sequence[int]) -> bool:
    """Whether some calls are those of a part that layers have in common, each called once.

    Those lie on the way from call to call. A loop may have norms of their own for its steps.
    """
    tree, points, last = network.tree, network.points, max(turn)
    names = {points[each].name for each in turn}
    behind = tree.behind([[mark]])
    once = [
        each
        for each in _once(network, min(turn), last)
        if names.isdisjoint(ancestry(points[each].name)) and tree.depends(each, behind)
    ]
    return tree.depends(last, tree.behind([[each] for each in once])).bit_count() >= STEPS


def _once(network: Network, first: int, last: int) -> Iterator[int]:
    """The marks between two of layers that are called once, but for norms."""
    for mark in network.marks:
        if first < mark < last:
            point = network.points[mark]
            calls = network.calls[point.name, point.output]
            if point.name in network.elements and len(calls) == 1 and "Norm" not in point.leaf:
                yield mark


def _between(
    network: Network,
    far: int,
    near: int,
    rows: Mapping[int, Counter[int]],
    weights: Collection[int],
) -> list[int]:
    """The marks of layers that are called once between uses of some weights."""
    before, behind = rows.get(far, Counter()), rows.get(near, Counter())
    met = ((each, rows.get(each, Counter())) for each in _once(network, far, near))
    return [each for each, row in met if any(before[w] < row[w] < behind[w] for w in weights)]


def _first_step(network: Network, turn: Sequence[int]) -> list[int]:
    """The marks of the first call of each layer."""
    begun: dict[str, int] = {}
    for mark in sorted(turn):
        begun.setdefault(network.points[mark].name, network.points[mark].call)
    return [m for m in turn if network.points[m].call == begun[network.points[m].name]]


def _inside(network: Network, mark: int, start: int) -> Loop | None:
    """What runs through all steps inside a fused layer, which a mark leads into."""
    tree, points = network.tree, network.points
    if points[start].name not in network.sequences:
        return None
    behind = tree.behind([[mark]])
    doors = [m for m in tree.inputs(start, network.marks) if tree.depends(m, behind)]
    call = frozenset([call_of(network.points[start])])
    return Loop(max(doors, key=lambda door: points[door].norm), start, call, (call,))


def _side_by_side(
    network: Network, far: int, rows: Mapping[int, Counter[int]], weights: Collection[int]
) -> Loop:
    """All loops with some weights that a mark leads into, at once, and that no chain runs through.

    Paths go on from the layer that gets the most, of the first ones that they have come through.
    """
    before, points = rows.get(far, Counter()), network.points
    begun = [m for m in network.marks & rows.keys() if any((rows[m] - before)[w] for w in weights)]
    begun = network.tree.sources(begun)
    fused = [m for m in begun if points[m].name in network.sequences]
    own = {w for w in weights if network.owners[w] not in {points[m].name for m in fused}}
    start = max(begun, key=lambda m: points[m].norm)
    steps = tuple(frozenset([call_of(network.points[m])]) for m in fused)
    calls = frozenset([call_of(network.points[start])]).union(*steps)
    return Loop(far, start, calls, steps, frozenset(own))

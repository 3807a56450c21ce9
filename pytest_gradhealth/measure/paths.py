"""From marked tensors and their dominators to gradient paths."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_gradhealth.formatting import listing
from pytest_gradhealth.results.names import OUTPUTS, ancestry
from pytest_gradhealth.results.path import GradientPath, PathPoint

if TYPE_CHECKING:
    from pytest_gradhealth.tensors.dominators import Chain, DominatorTree

Points = Mapping[int, PathPoint]

#: Paths up to which it is told which of them are trunks.
MOST_COMPARED = 64


@dataclass(frozen=True)
class Network:
    """What paths are read from: marked tensors in their tree, and their points by mark.

    `elements` are the sizes of the trainable parameters by module. `round_about` are marks that the
    forward has differentiated itself: their layers' weights may get a gradient past them.
    """

    tree: DominatorTree
    points: Points
    elements: Mapping[str, int] = field(default_factory=dict)
    round_about: frozenset[int] = frozenset()

    @cached_property
    def marks(self) -> frozenset[int]:
        """The marks that have points."""
        return frozenset(mark for mark in self.tree.marks if mark in self.points)

    @cached_property
    def calls(self) -> Mapping[tuple[str, int], list[int]]:
        """The marks of each module and output, in the order of the calls."""
        found: dict[tuple[str, int], list[int]] = {}
        for mark in sorted(self.marks):
            point = self.points[mark]
            found.setdefault((point.name, point.output), []).append(mark)
        return found


def gradient_paths(
    network: Network, carriers: Collection[int] | None = None
) -> tuple[GradientPath, ...]:
    """Return the gradient's paths, in the order of the forward pass.

    One for each first layer, up to the last one or, where there are several, up to all of them
    together; and one for each part that only one term of the loss sees.

    With `carriers`, the marks whose output depends on the batch, only those make judged paths; the
    first layers that carry no data are reported with paths of their own, not judged. Neither are
    `round_about` paths that get no gradient.
    """
    tree, marks, passed_by = network.tree, network.marks, network.round_about
    carrying = marks if carriers is None else marks.intersection(carriers)
    trunks = _beside_others(network, _starting_at(network, tree.sources(carrying)))
    trunks = _to_the_outputs(network, trunks)
    entries = [mark for mark in tree.entries(carrying, marks) if mark not in passed_by]
    parts = [_starting(network, entry) for entry in entries]
    parts = [part for part in parts if part.path.links and part.path.last.norm]
    judged = [
        replace(way.path, judged=bool(way.path.entry.norm) or way.calls[0] not in passed_by)
        for way in (*trunks, *parts)
    ]
    sides = [mark for mark in tree.sources(marks) if mark not in carrying]
    aside = (replace(way.path, judged=False) for way in _starting_at(network, sides))
    return (*judged, *aside)


@dataclass(frozen=True)
class _Way:
    """A path, the calls of its first layer that it stands for, and the mark that it ends in."""

    path: GradientPath
    calls: tuple[int, ...]
    last: int


def _starting_at(network: Network, sources: Collection[int]) -> list[_Way]:
    """One path for each layer, calls in one recurrence taken together."""
    by_module: dict[str, list[int]] = {}
    for source in sources:
        by_module.setdefault(network.points[source].name, []).append(source)
    found = []
    for calls in by_module.values():
        while calls:
            way = _starting(network, calls[0], calls[1:])
            calls = [call for call in calls if call not in way.calls]
            found.append(way)
    return found


def _starting(network: Network, first: int, others: Sequence[int] = ()) -> _Way:
    """The path from one mark, also for those of the `others` that are steps after it.

    A cell that is called in a loop gets its gradient step by step, and most from the last: its
    entry is the call that gets the most, whatever becomes of what each call returns.
    """
    tree, points = network.tree, network.points
    chain = tree.chain(first, network.marks)
    calls = later = [first]
    again = network.calls[points[first].name, points[first].output]
    if len(again) > 1 or others:
        behind = tree.behind([[first]])
        calls = [first, *(c for c in others if _is_repeat(network, c, chain, behind))]
        behind = behind if len(calls) == 1 else tree.behind([calls])
        later = [call for call in again if tree.depends(call, behind)]
    on_path = (
        replace(points[mark], ops=ops) for mark, ops in zip(chain.marks, chain.ops, strict=True)
    )
    entry = max((points[mark] for mark in (*calls, *later)), key=lambda point: point.norm)
    return _Way(GradientPath(tuple(on_path), entry), tuple(calls), chain.marks[-1])


def _to_the_outputs(network: Network, ways: list[_Way]) -> list[_Way]:
    """The same ways; those that part into several, up to where these end, taken for one output."""
    outermost = network.tree.outermost(network.marks)
    if len(outermost) == 1:
        return ways
    behind = network.tree.behind([[way.last] for way in ways])
    reached = [(network.points[mark], network.tree.depends(mark, behind)) for mark in outermost]
    return [
        _up_to(way, [point for point, groups in reached if groups >> place & 1])
        for place, way in enumerate(ways)
    ]


def _up_to(way: _Way, ends: Sequence[PathPoint]) -> _Way:
    if {end.name for end in ends} <= {way.path.last.name}:
        return way
    numel = sum(end.numel for end in ends)
    together = PathPoint(
        name=OUTPUTS,
        type=listing([end.label for end in ends]),
        shape=(numel,),
        norm=math.hypot(*(end.norm for end in ends)),
        numel=numel,
        activation=math.hypot(*(end.activation for end in ends)),
    )
    return replace(way, path=replace(way.path, points=(*way.path.points, together)))


def _is_repeat(network: Network, source: int, chain: Chain, behind: Sequence[int]) -> bool:
    """Whether `source` starts the same way through the same layers as `chain`, called again.

    It does if its dominators join what the first mark of `chain` leads to after the same modules in
    the same order: (embed#5, cell#5, cell#6) joins (embed, cell, cell#1, ..., cell#5, cell#6), and
    (embed#5, cell#5) joins (embed, cell, head), where the head sees what all steps have returned.
    Steps of a recurrence do, and twin towers that share weights.
    """
    points = network.points
    climbed = (mark for mark, _ in network.tree.climb(source, network.marks) if mark is not None)
    for mark, counterpart in zip(climbed, chain.marks, strict=False):
        if points[mark].name != points[counterpart].name:
            return False
        if network.tree.depends(mark, behind):
            return True
    return False


def _beside_others(network: Network, ways: list[_Way]) -> list[_Way]:
    """Say of paths that only join branches of others how much there is on them."""
    if not 1 < len(ways) <= MOST_COMPARED:
        return ways
    groups = [way.calls for way in ways]
    behind = network.tree.behind(groups)
    for place in network.tree.joins_a_branch(groups, behind):
        way = ways[place]
        share = _share(network, behind, 1 << place)
        ways[place] = replace(way, path=replace(way.path, beside=share))
    return ways


def _share(network: Network, behind: Sequence[int], group: int) -> float:
    """The share of the trainable elements in layers that depend on one group of marks alone."""
    own = {
        network.points[mark].name
        for mark in network.marks
        if network.tree.depends(mark, behind) == group
    }
    sizes = network.elements
    share = sum(size for name, size in sizes.items() if not own.isdisjoint(ancestry(name)))
    return share / max(1, sum(sizes.values()))

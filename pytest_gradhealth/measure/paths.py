"""From marked tensors and their dominators to gradient paths."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from typing import TYPE_CHECKING

from pytest_gradhealth.formatting import listing
from pytest_gradhealth.measure.last_layers import with_last_layers
from pytest_gradhealth.measure.loop import Call, Loop, call_of
from pytest_gradhealth.measure.loops import is_shared, loops_behind
from pytest_gradhealth.results.names import INPUT, OUTPUTS, ancestry
from pytest_gradhealth.results.path import FAINT, GradientPath, PathPoint, together

if TYPE_CHECKING:
    from pytest_gradhealth.tensors.dominators import Chain, DominatorTree

Points = Mapping[int, PathPoint]

#: Paths up to which it is told which of them are trunks.
MOST_COMPARED = 64


@dataclass(frozen=True)
class Network:
    """What paths are read from: marked tensors in their tree, and their points by mark.

    `owners` are the modules that hold the leaves of the tree, `sizes` the trainable elements of
    these, `sequences` the modules that run over a sequence inside; `matrices` are those leaves that
    are trained and do more than scale and shift. `round_about` are marks that the forward has
    differentiated itself: their layers' weights may get a gradient past them.
    """

    tree: DominatorTree
    points: Points
    sizes: Mapping[int, int] = field(default_factory=dict)
    round_about: frozenset[int] = frozenset()
    sequences: frozenset[str] = frozenset()
    owners: Mapping[int, str] = field(default_factory=dict)
    matrices: frozenset[int] = frozenset()

    @cached_property
    def marks(self) -> frozenset[int]:
        """The marks that have points."""
        return frozenset(mark for mark in self.tree.marks if mark in self.points)

    @cached_property
    def elements(self) -> Mapping[str, int]:
        """How many trainable elements the modules with parameters hold."""
        found: Counter[str] = Counter()
        for leaf, owner in self.owners.items():
            found[owner] += self.sizes[leaf]
        return found

    @cached_property
    def loops(self) -> dict[int, list[Loop]]:
        """The loops that marks lead into, where they have been asked for."""
        return {}

    @cached_property
    def calls(self) -> Mapping[tuple[str, int], list[int]]:
        """The marks of each module and output, in the order of the calls."""
        found: dict[tuple[str, int], list[int]] = {}
        for mark in sorted(self.marks):
            point = self.points[mark]
            found.setdefault((point.name, point.output), []).append(mark)
        return found


def gradient_paths(
    network: Network, carriers: Collection[int] | None = None, fed: Collection[str] = ()
) -> tuple[GradientPath, ...]:
    """Return the gradient's paths, in the order of the forward pass.

    One for each first layer, up to the last one or, where there are several, up to all of them
    together; and one for each part that only one term of the loss sees. Where loops begin whose
    steps are `fed` with data of their own, by the names of their modules, a path ends and another
    begins.

    With `carriers`, the marks whose output depends on the batch, only those make judged paths; the
    first layers that carry no data are reported with paths of their own, not judged. Neither are
    `round_about` paths that get no gradient.
    """
    marks = network.marks
    carrying = marks if carriers is None else marks.intersection(carriers)
    judged: dict[int, GradientPath] = {}
    for way in _judged(network, carrying):
        for part in _along_one_step(network, way, frozenset(fed)):
            judged.setdefault(part.calls[0], part.path)
    sides = [mark for mark in network.tree.sources(marks) if mark not in carrying]
    aside = (replace(way.path, judged=False) for way in _starting_at(network, sides))
    return tuple(with_last_layers(network, [*judged.values(), *aside]))


def on_paths(tree: DominatorTree, outputs: Mapping[int, tuple[str, int]]) -> set[int]:
    """Return the marks that paths may be read at, by what is known before there are gradients.

    All of one output of a module, by `outputs`, count together.
    """
    marks = tree.marks
    firsts = {*tree.sources(marks), *tree.entries(marks, marks)}
    chains = [tree.chain(first, marks).marks for first in firsts]
    found = {mark for chain in chains for mark in chain}
    outermost = tree.outermost(marks)
    if len(outermost) > 1:
        found.update(outermost, tree.nearest([*{chain[-1] for chain in chains}], marks))
    named = {outputs[mark] for mark in found}
    return {mark for mark in marks if outputs[mark] in named}


def loops_crossed(network: Network) -> Iterator[tuple[Loop, Collection[Call], bool]]:
    """Yield the loops that begin on paths, the calls that these run through, and if all is lost."""
    for way in _judged(network, network.marks):
        loops = _loops(network, way)
        marks = {*way.marks, *network.tree.chain(way.most, network.marks).marks} if loops else ()
        calls = {call_of(network.points[mark]) for mark in marks}
        yield from ((loop, calls, way.path.entry.norm == 0) for loop in loops)


def _judged(network: Network, carrying: Collection[int]) -> Iterator[_Way]:
    """The ways that start at marks which carry data, and those of parts."""
    tree, marks, passed_by = network.tree, network.marks, network.round_about
    trunks = _beside_others(network, _starting_at(network, _first_layers(network, carrying)))
    trunks = _to_the_outputs(network, trunks)
    entries = [mark for mark in tree.entries(carrying, marks) if mark not in passed_by]
    parts = [_starting(network, entry) for entry in entries]
    parts = [part for part in parts if part.path.links and part.path.last.norm]
    for way in (*trunks, *parts):
        judged = bool(way.path.entry.norm) or way.calls[0] not in passed_by
        yield replace(way, path=replace(way.path, judged=judged))


def _first_layers(network: Network, carrying: Collection[int]) -> list[int]:
    """The marks that paths start at; of several layers that read one input, each."""
    sources = network.tree.sources(carrying)
    inputs = {mark for mark in sources if network.points[mark].name == INPUT}
    if not inputs:
        return sources
    layers = network.tree.sources(set(carrying) - inputs)
    crossed = {each for mark in inputs for each in network.tree.chain(mark, network.marks).marks}
    return sorted({*sources, *(mark for mark in layers if mark not in crossed)})


def _loops(network: Network, way: _Way) -> list[Loop]:
    """The loops that begin on a way which loses some of its gradient."""
    if not way.path.vanishing < 0:
        return []
    if way.most not in network.loops:
        network.loops[way.most] = loops_behind(network, way.most)
    return network.loops[way.most]


def _along_one_step(network: Network, way: _Way, fed: frozenset[str]) -> Iterator[_Way]:
    """A way up to the first loop whose steps are fed, and further ones from there on.

    What is lost on the way through the steps of a loop is memory, and no depth. Where the first
    step gets less than what leads there, most of that got past its layers.
    """
    loops = _loops(network, way) if fed else ()
    loop = next((loop for loop in loops if not fed.isdisjoint(loop.names)), None)
    if loop is None:
        yield way
        return
    marks = [mark for mark in way.marks if mark < loop.door] + [loop.door]
    path = replace(way.path, points=tuple(network.points[mark] for mark in marks))
    telling = path.links and path.last.norm > FAINT and path.exploding <= 0
    yield replace(way, path=replace(path, judged=path.judged and bool(telling)))
    rest = _starting(network, loop.start)
    if way.path.last.name == OUTPUTS:
        (rest,) = _to_the_outputs(network, [rest])
    path = replace(rest.path, judged=way.path.judged, beside=way.path.beside)
    yield from _along_one_step(network, replace(rest, path=path), fed)


@dataclass(frozen=True)
class _Way:
    """A path, its marks, and the calls of its first layer that it stands for.

    `most` is the call of that layer that gets the most gradient.
    """

    path: GradientPath
    marks: tuple[int, ...]
    calls: tuple[int, ...]
    most: int


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
    entry is all calls together, as it is of a layer that is called with the whole sequence. Calls
    before and behind other layers are none.
    """
    tree, points = network.tree, network.points
    chain = tree.chain(first, network.marks)
    calls = later = [first]
    again = network.calls[points[first].name, points[first].output]
    if len(again) > 1 or others:
        behind = tree.behind([[first]])
        calls = [first, *(c for c in others if _is_repeat(network, c, chain, behind))]
        behind = behind if len(calls) == 1 else tree.behind([calls])
        dependent = (call for call in again if tree.depends(call, behind))
        later = [call for call in dependent if not is_shared(network, first, [first, call])]
    on_path = (
        replace(points[mark], ops=ops) if ops else points[mark]
        for mark, ops in zip(chain.marks, chain.ops, strict=True)
    )
    every = {*calls, *later}
    entry = replace(
        points[first],
        norm=math.hypot(*(points[mark].norm for mark in every)),
        numel=sum(points[mark].numel for mark in every),
    )
    most = max(sorted(every), key=lambda mark: points[mark].norm)
    return _Way(GradientPath(tuple(on_path), entry), chain.marks, tuple(calls), most)


def _to_the_outputs(network: Network, ways: list[_Way]) -> list[_Way]:
    """The same ways; those that part into several, up to where these end, taken for one output."""
    tree, points, marks = network.tree, network.points, network.marks
    outermost = tree.outermost(marks)
    if len(outermost) == 1:
        return ways
    lasts = [way.marks[-1] for way in ways]
    behind, nearest = tree.behind([[mark] for mark in lasts]), tree.nearest(lasts, marks)
    found = []
    for place, way in enumerate(ways):
        ends = [m for m in outermost if tree.depends(m, behind) >> place & 1]
        parts = sorted(m for m, groups in nearest.items() if groups >> place & 1)
        if way.calls[0] in network.round_about:
            parts = []  # what a forward has differentiated parts behind each layer
        found.append(_up_to(way, [points[m] for m in ends], [points[m] for m in parts]))
    return found


def _up_to(way: _Way, ends: Sequence[PathPoint], parts: Sequence[PathPoint]) -> _Way:
    """A way on to its `ends` together, or with what comes to the layers that it parts into.

    What counts is the less of the two: an end may lose all of its gradient at once, as where the
    logarithm of a saturated probability is taken, or behind a gate that is closed. All calls of a
    cell together have more to compare with than what the first one leads to.
    """
    if {end.name for end in ends} <= {way.path.last.name}:
        return way
    alone = way.path.entry.numel == way.path.first.numel
    cuts = [cut for cut in (ends, parts if alone else ()) if any(point.norm for point in cut)]
    cut = min(cuts or [ends], key=lambda cut: math.hypot(*(point.norm for point in cut)))
    end = replace(together(cut), name=OUTPUTS, type=listing([end.label for end in ends]))
    return replace(way, path=replace(way.path, points=(*way.path.points, end)))


def _is_repeat(network: Network, source: int, chain: Chain, behind: Sequence[int]) -> bool:
    """Whether `source` starts the same way through the same layers as `chain`, called again.

    It does if its dominators join what the first mark of `chain` leads to after the same modules in
    the same order: (embed#5, cell#5, cell#6) joins (embed, cell, cell#1, ..., cell#5, cell#6), and
    (embed#5, cell#5) joins (embed, cell, head), where the head sees what all steps have returned.
    Steps of a recurrence do, and twin towers that share weights. Where layers keep states of their
    own, and each step has an output, both join in a layer that is called in turn.
    """
    points, depends = network.points, network.tree.depends
    climbed = (mark for mark, _ in network.tree.climb(source, network.marks) if mark is not None)
    for mark, counterpart in zip_longest(climbed, chain.marks):
        if mark is None:
            return False
        if counterpart is None or points[mark].name != points[counterpart].name:
            calls = network.calls[points[mark].name, points[mark].output]
            return sum(bool(depends(call, behind)) for call in calls if call <= mark) > 1
        if depends(mark, behind):
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
    """The share of the trainable elements that depend on one group of marks alone.

    Those of layers, and those that operations take without.
    """
    own = {
        network.points[mark].name
        for mark in network.marks
        if network.tree.depends(mark, behind) == group
    }
    taken = (each for vertex, each in network.tree.leaves.items() if behind[vertex] == group)
    leaves = {
        leaf for leaf, owner in network.owners.items() if not own.isdisjoint(ancestry(owner))
    }.union(*taken)
    return sum(network.sizes.get(leaf, 0) for leaf in leaves) / max(1, sum(network.sizes.values()))

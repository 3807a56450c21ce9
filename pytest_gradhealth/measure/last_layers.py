"""The last layers with weights on gradient paths, behind which outputs are only scaled."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_gradhealth.results.activation_functions import FUNCTIONAL, SATURATING
from pytest_gradhealth.results.path import GradientPath, together

if TYPE_CHECKING:
    from pytest_gradhealth.measure.paths import Network


def with_last_layers(network: Network, paths: Sequence[GradientPath]) -> Iterator[GradientPath]:
    """Give paths their points up to the last layers, where others are behind.

    What is done with all that these return (a unit, a logarithm) is the same for all weights; what
    a function that flattens out takes away of the gradient is not the unit's.
    """
    tree, points = network.tree, network.points
    marks = {points[mark].key: mark for mark in network.marks}
    behind = tree.behind([[marks[path.first.key]] for path in paths])
    outermost = tree.outermost(network.marks)
    for place, path in enumerate(paths):
        last = marks.get(path.last.key)
        lasts = _last_layers(network, outermost if last is None else [last])
        lasts = {mark for mark in lasts if tree.depends(mark, behind) >> place & 1}
        end = together([points[mark] for mark in sorted(lasts)]) if lasts else path.last
        if end == path.last or (end.norm < path.last.norm and _is_squashed(network, lasts)):
            yield path
            continue
        begin = min(lasts)
        before = (point for point in path.points if marks.get(point.key, begin) < begin)
        yield replace(path, layers=(*before, end))


def _is_squashed(network: Network, marks: Collection[int]) -> bool:
    """Whether a function that flattens out lies between some marks and the loss."""
    ways = (network.tree.climb(mark, network.marks) for mark in marks)
    return any(FUNCTIONAL.get(op) in SATURATING for way in ways for _, op in way)


def _last_layers(network: Network, ends: Collection[int]) -> set[int]:
    """What the last weights before some marks have made."""
    tree, waiting, found = network.tree, [*ends], set[int]()
    while waiting:
        mark = waiting.pop()
        inputs, leaves = tree.made_of(mark, network.marks)
        if leaves.isdisjoint(network.matrices):
            waiting += tree.last_of(inputs)
        else:
            found.add(mark)
    return found

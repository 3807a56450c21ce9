"""The last layers with weights on gradient paths, behind which outputs are only scaled."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_gradhealth.results.path import GradientPath, together

if TYPE_CHECKING:
    from pytest_gradhealth.measure.paths import Network


def with_last_layers(network: Network, paths: Sequence[GradientPath]) -> Iterator[GradientPath]:
    """Give paths their points up to the last layers, where others are behind.

    What is done with all that these return (a unit, a logarithm) is the same for all weights.
    """
    tree, points = network.tree, network.points
    marks = {points[mark].key: mark for mark in network.marks}
    behind = tree.behind([[marks[path.first.key]] for path in paths])
    outermost = tree.outermost(network.marks)
    for place, path in enumerate(paths):
        last = marks.get(path.last.key)
        lasts = _last_layers(network, outermost if last is None else [last])
        lasts = {mark for mark in lasts if tree.depends(mark, behind) >> place & 1}
        if not lasts or lasts == {last}:
            yield path
            continue
        begin = min(lasts)
        before = (point for point in path.points if marks.get(point.key, begin) < begin)
        yield replace(path, layers=(*before, together([points[mark] for mark in sorted(lasts)])))


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

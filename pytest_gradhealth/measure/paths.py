"""From marked tensors and their dominators to gradient paths."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_gradhealth.results.path import GradientPath, PathPoint

if TYPE_CHECKING:
    from pytest_gradhealth.tensors.dominators import Chain, DominatorTree

Points = Mapping[int, PathPoint]


def gradient_paths(
    tree: DominatorTree, points: Points, carriers: Collection[int] | None = None
) -> tuple[GradientPath, ...]:
    """Return one path per first layer, in the order of the forward pass.

    With `carriers`, the marks whose output depends on the batch, only those make judged paths; the
    first layers that carry no data are reported with paths of their own, not judged.
    """
    marks = frozenset(mark for mark in tree.marks if mark in points)
    if carriers is None:
        return tuple(_paths_from(tree, points, tree.sources(marks), marks))
    carrying = marks.intersection(carriers)
    judged = _paths_from(tree, points, tree.sources(carrying), marks)
    sides = [mark for mark in tree.sources(marks) if mark not in carrying]
    aside = _paths_from(tree, points, sides, marks)
    return (*judged, *(replace(path, judged=False) for path in aside))


def _paths_from(
    tree: DominatorTree, points: Points, sources: Collection[int], wanted: frozenset[int]
) -> list[GradientPath]:
    by_module: dict[str, list[int]] = {}
    for source in sources:
        by_module.setdefault(points[source].name, []).append(source)
    paths = []
    for calls in by_module.values():
        while calls:
            chain = tree.chain(calls.pop(0), wanted)
            repeats = [call for call in calls if _is_repeat(call, chain, tree, points, wanted)]
            calls = [call for call in calls if call not in repeats]
            paths.append(_path(chain, points, repeats))
    return paths


def _path(chain: Chain, points: Points, calls: Collection[int]) -> GradientPath:
    on_path = [
        replace(points[mark], ops=ops) for mark, ops in zip(chain.marks, chain.ops, strict=True)
    ]
    repeats = [point for point in on_path if point.name == on_path[0].name]
    repeats += [points[mark] for mark in calls]
    return GradientPath(tuple(on_path), entry=max(repeats, key=lambda point: point.norm))


def _is_repeat(
    source: int, chain: Chain, tree: DominatorTree, points: Points, wanted: frozenset[int]
) -> bool:
    """Whether `source` starts the same way through the same layers as `chain`, called again.

    It does if its dominators join `chain` after the same modules in the same order, at the same
    point or at a later call of the same module: (embed#5, cell#5, cell#6) joins (embed, cell,
    cell#1, ..., cell#5, cell#6). Steps of a recurrence do, and twin towers that share weights.
    """
    on_chain = frozenset(chain.marks)
    climbed = (mark for mark, _ in tree.climb(source, wanted) if mark is not None)
    for mark, counterpart in zip(climbed, chain.marks, strict=False):
        if points[mark].name != points[counterpart].name:
            return False
        if mark in on_chain:
            return True
    return False

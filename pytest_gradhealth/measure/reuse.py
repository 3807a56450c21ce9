"""How often in a row ways use the same parameter, whichever modules do so, or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from pytest_gradhealth.tensors.dominators import DominatorTree

#: Uses of one parameter from which on they are a loop: an encoder and a decoder may share one.
STEPS = 3
#: Uses that one step may make of a parameter, as one of Runge and Kutta does.
ONE_STEP = 4

Row = Counter[int]


def in_a_row(tree: DominatorTree, first: int, own: Mapping[int, int]) -> dict[int, Row]:
    """Return how often ways from a mark to others have used some parameters one after the other.

    By mark, what of `own` was used, by the numbers that the tree knows them by; each use counts so
    many times. Left out are those that no way uses so often that it is a loop, and those of loops
    that other ways from the mark get into the middle of, as data do, or around.
    """
    inputs = [children for _, children in tree.uses()]
    uses = _uses(tree, first, own)
    often: Row = Counter()
    for leaves in uses.values():
        often.update({leaf: own[leaf] for leaf in leaves})
    loops = {leaf for leaf, times in often.items() if times >= STEPS}
    if not loops:
        return {}
    rows: dict[int, Row] = {}
    joined: dict[int, set[int]] = {}  # what ways have come to that had not used it
    for vertex, leaves in uses.items():  # whatever leads to a vertex comes before it
        before = [child for child in inputs[vertex] if child in rows]
        row: Row = Counter()
        for child in before:
            row |= rows[child]
        row.update({leaf: own[leaf] for leaf in leaves & loops})
        again = (leaf for leaf, n in row.items() if n > ONE_STEP * own[leaf])
        missing = {leaf for leaf in again if not all(rows[child][leaf] for child in before)}
        come = missing.union(*(joined[child] for child in before))
        around = missing if not all(map(rows.get, before)) else set()
        loops -= around | (come & leaves)
        rows[vertex], joined[vertex] = row, come
    return {
        mark: Counter({leaf: n for leaf, n in rows[vertex].items() if leaf in loops})
        for vertex, (mark, _) in enumerate(tree.uses())
        if mark is not None and vertex in rows
    }


def _uses(tree: DominatorTree, first: int, own: Collection[int]) -> Mapping[int, frozenset[int]]:
    """What each vertex behind a mark takes of `own`, from the mark on.

    Also through operations of its own, as where a weight is transposed, or multiplied by data that
    come from elsewhere.
    """
    return dict(_taken(tree, tree.behind([[first]]), frozenset(own)))


def _taken(
    tree: DominatorTree, behind: list[int], own: frozenset[int]
) -> Iterator[tuple[int, frozenset[int]]]:
    aside: dict[int, frozenset[int]] = {}
    for vertex, (mark, inputs) in reversed([*enumerate(tree.uses())]):
        taken = own.intersection(tree.leaves.get(vertex, ()))
        taken = taken.union(*(aside[child] for child in inputs if child in aside))
        if behind[vertex]:
            yield vertex, taken
        elif mark is None:
            aside[vertex] = taken

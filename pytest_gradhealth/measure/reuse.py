"""How often in a row ways use the same parameter, whichever modules do so, or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_gradhealth.tensors.dominators import DominatorTree

#: Uses of one parameter from which on they are a loop: an encoder and a decoder may share one.
STEPS = 3
#: Uses that one step may make of a parameter, as one of Runge and Kutta does.
ONE_STEP = 4

Row = Counter[int]


@dataclass(frozen=True)
class InARow:
    """How often ways to marks use parameters one after the other.

    `made` are those that come to a way through layers beside it alone.
    """

    rows: Mapping[int, Row] = field(default_factory=dict)
    made: frozenset[int] = frozenset()


def in_a_row(tree: DominatorTree, first: int, own: Mapping[int, int]) -> InARow:
    """Count how often ways from a mark to others have used some parameters one after the other.

    By mark, what of `own` was used, by the numbers that the tree knows them by; each use counts so
    many times. What other layers have made of parameters, as weights of data or data for each step,
    counts once, as long as no parameters that are used but once come in between. Left out are those
    that no way uses so often that it is a loop, and those of loops that other ways from the mark
    get into the middle of, as data do, or around.
    """
    inputs = [children for _, children in tree.uses()]
    uses = _uses(tree, first, own)
    direct = frozenset[int]().union(*(leaves for leaves, _ in uses.values()))
    times = {leaf: count if leaf in direct else 1 for leaf, count in own.items()}
    often: Row = Counter()
    for leaves, made in uses.values():
        often.update({leaf: times[leaf] for leaf in leaves | (made - direct)})
    loops = {n for n, count in often.items() if count >= (STEPS if n in direct else ONE_STEP + 1)}
    if not loops:
        return InARow()
    once = direct - loops
    rows: dict[int, Row] = {}
    joined: dict[int, set[int]] = {}  # what is no loop from there on
    for vertex, (leaves, made) in uses.items():  # whatever leads to a vertex comes before it
        before = [child for child in inputs[vertex] if child in rows]
        row: Row = Counter()
        for child in before:
            row |= rows[child]
        apart = row.keys() - direct if leaves & once else set()
        taken = loops & (leaves | (made - direct))
        row.update({leaf: times[leaf] for leaf in taken})
        again = (leaf for leaf, n in row.items() if n > ONE_STEP * times[leaf])
        missing = {leaf for leaf in again if not all(rows[child][leaf] for child in before)}
        come = missing.union(apart, *(joined[child] for child in before))
        around = missing if not all(map(rows.get, before)) else set()
        loops -= around | (come & taken)
        rows[vertex], joined[vertex] = row, come
    found = {
        mark: Counter({leaf: n for leaf, n in rows[vertex].items() if leaf in loops})
        for vertex, (mark, _) in enumerate(tree.uses())
        if mark is not None and vertex in rows
    }
    return InARow(found, frozenset(loops - direct))


#: Parameters that a vertex takes, and those that what it takes was made of by other layers.
_Taken = tuple[frozenset[int], frozenset[int]]


def _uses(tree: DominatorTree, first: int, own: Iterable[int]) -> dict[int, _Taken]:
    """What each vertex behind a mark takes of `own`, from the mark on.

    Also through operations of its own, as where a weight is transposed, or multiplied by data that
    come from elsewhere.
    """
    behind = tree.behind([[first]])
    order = [*own]
    bits = {leaf: 1 << place for place, leaf in enumerate(order)}
    aside: dict[int, tuple[int, int]] = {}
    found: dict[int, _Taken] = {}
    for vertex, (mark, inputs) in reversed([*enumerate(tree.uses())]):
        taken, made = sum(bits.get(leaf, 0) for leaf in {*tree.leaves.get(vertex, ())}), 0
        for child in inputs:
            taken |= aside.get(child, (0, 0))[0]
            made |= aside.get(child, (0, 0))[1]
        if behind[vertex]:
            found[vertex] = _of_bits(order, taken), _of_bits(order, made)
        else:
            aside[vertex] = (taken, made) if mark is None else (0, taken | made)
    return found


def _of_bits(order: Sequence[int], bits: int) -> frozenset[int]:
    places = (place for place in range(bits.bit_length()) if bits >> place & 1)
    return frozenset(order[place] for place in places)

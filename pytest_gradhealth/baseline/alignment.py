"""Which layer of a path is which layer of another: the same, renamed, inserted or removed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Annotated

from pytest_gradhealth.baseline.entry import KeptPath, KeptPoint
from pytest_gradhealth.results.serialization import AtLeast

#: Pairs of layers, or of paths, up to which the best pairing is looked for.
MOST = 2**17


@dataclass(frozen=True)
class Pair:
    """The places of one layer in two paths; None where it was inserted or removed."""

    before: Annotated[int, AtLeast(0)] | None
    after: Annotated[int, AtLeast(0)] | None


def aligned(before: Sequence[KeptPoint], after: Sequence[KeptPoint]) -> list[Pair]:
    """Pair the layers of two paths in their order.

    Layers are the same by name; between those, by type in the same order: a layer that was renamed
    keeps its type. What is left over was removed or inserted.

    >>> old = [KeptPoint("0", "Linear", 0.0), KeptPoint("1", "ReLU", 0.0)]
    >>> new = [KeptPoint("fc", "Linear", 0.0), KeptPoint("1", "ReLU", 0.0)]
    >>> aligned(old, new)
    [Pair(before=0, after=0), Pair(before=1, after=1)]
    """
    names = [p.layer for p in before], [p.layer for p in after]
    pairs: list[Pair] = []
    for old, new, same in _blocks(*names):
        if same:
            pairs += [Pair(i, j) for i, j in zip(old, new, strict=True)]
        else:
            pairs += _by_type(before, after, old, new)
    return pairs


def path_pairs(
    before: Sequence[KeptPath], after: Sequence[KeptPath]
) -> list[tuple[KeptPath | None, KeptPath | None]]:
    """Pair the paths of two entries by their first layer, then those that are most alike.

    Models are renamed, wrapped and called in another order: alike are paths with the same end of
    the first layer's name ("emb.tok" and "tok"), then those with the same types of layers, then
    those with the nearest ratio. A path whose first layer lies on another one of the other side is
    paired with the rest of that, which is the same layer's path.
    """
    pairs: list[tuple[KeptPath | None, KeptPath | None]] = []
    old, new = [], list(after)
    for path in before:
        found = next((p for p in new if p.first.layer == path.first.layer), None)
        if found is None:
            old.append(path)
        else:
            new.remove(found)
            pairs.append((path, found))
    while old and new and len(old) * len(new) <= MOST:
        i, j = min(itertools.product(range(len(old)), range(len(new))), key=_unlikeness(old, new))
        pairs.append(_from_one_layer(old.pop(i), new.pop(j)))
    pairs += [(path, _rest(after, path)) for path in old]
    return pairs + [(_rest(before, path), path) for path in new]


def _from_one_layer(old: KeptPath, new: KeptPath) -> tuple[KeptPath, KeptPath]:
    """Two paths from the first layer that starts one of them and lies on the other, if one does.

    Not where all types are the same: then layers have been numbered anew.
    """
    if [point.type for point in old.points] == [point.type for point in new.points]:
        return old, new
    shorter = old.from_layer(new.first)
    if shorter is not None:
        return shorter, new
    return old, new.from_layer(old.first) or new


def _rest(paths: Sequence[KeptPath], path: KeptPath) -> KeptPath | None:
    rests = (other.from_layer(path.first) for other in paths)
    return next((rest for rest in rests if rest is not None), None)


def _unlikeness(
    old: Sequence[KeptPath], new: Sequence[KeptPath]
) -> Callable[[tuple[int, int]], tuple[float, ...]]:
    types = {id(path): [point.type for point in path.points] for path in (*old, *new)}
    names = {id(path): path.first.layer.split(".")[::-1] for path in (*old, *new)}

    def unlikeness(places: tuple[int, int]) -> tuple[float, ...]:
        one, other = old[places[0]], new[places[1]]
        tails = zip(names[id(one)], names[id(other)], strict=False)
        common = len([*itertools.takewhile(lambda parts: parts[0] == parts[1], tails)])
        apart = abs(one.ratio - other.ratio) if one.ratio != other.ratio else 0.0
        same = types[id(one)] == types[id(other)]
        return -common, not same, math.inf if math.isnan(apart) else apart

    return unlikeness


def _by_type(
    before: Sequence[KeptPoint], after: Sequence[KeptPoint], old: range, new: range
) -> Iterator[Pair]:
    types = [before[i].type for i in old], [after[j].type for j in new]
    # Few types in long repetitions are what takes difflib cubic time.
    blocks = _blocks if len(old) * len(new) <= MOST else _ends
    for mine, theirs, same in blocks(*types):
        left = [old[i] for i in mine]
        right = [new[j] for j in theirs]
        if same or len(left) == len(right):
            yield from (Pair(i, j) for i, j in zip(left, right, strict=True))
        else:
            yield from (Pair(i, None) for i in left)
            yield from (Pair(None, j) for j in right)


def _ends(before: Sequence[str], after: Sequence[str]) -> Iterator[tuple[range, range, bool]]:
    """What two sequences have in common at both ends, and what lies in between."""
    shorter = min(len(before), len(after))
    head = next((k for k in range(shorter) if before[k] != after[k]), shorter)
    room = range(shorter - head)
    tail = next((k for k in room if before[-1 - k] != after[-1 - k]), len(room))
    i, j = len(before) - tail, len(after) - tail
    yield range(head), range(head), True
    yield range(head, i), range(head, j), False
    yield range(i, len(before)), range(j, len(after)), True


def _blocks(before: Sequence[str], after: Sequence[str]) -> Iterator[tuple[range, range, bool]]:
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        yield range(i1, i2), range(j1, j2), tag == "equal"

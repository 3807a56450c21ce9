"""Which layer of a path is which layer of another: the same, renamed, inserted or removed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from pytest_gradhealth.baseline.entry import KeptPath, KeptPoint


@dataclass(frozen=True)
class Pair:
    """The places of one layer in two paths; None where it was inserted or removed."""

    before: int | None
    after: int | None


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
    """Pair the paths of two entries by their first layer, then what is left over in order."""
    pairs: list[tuple[KeptPath | None, KeptPath | None]] = []
    old, new = [], list(after)
    for path in before:
        found = next((p for p in new if p.first.layer == path.first.layer), None)
        if found is None:
            old.append(path)
        else:
            new.remove(found)
            pairs.append((path, found))
    return pairs + list(itertools.zip_longest(old, new))


def _by_type(
    before: Sequence[KeptPoint], after: Sequence[KeptPoint], old: range, new: range
) -> Iterator[Pair]:
    types = [before[i].type for i in old], [after[j].type for j in new]
    for mine, theirs, same in _blocks(*types):
        left = [old[i] for i in mine]
        right = [new[j] for j in theirs]
        if same or len(left) == len(right):
            yield from (Pair(i, j) for i, j in zip(left, right, strict=True))
        else:
            yield from (Pair(i, None) for i in left)
            yield from (Pair(None, j) for j in right)


def _blocks(before: Sequence[str], after: Sequence[str]) -> Iterator[tuple[range, range, bool]]:
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        yield range(i1, i2), range(j1, j2), tag == "equal"

"""Names that stand for many layers: a module for all in it, the first and last of a list."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from pytest_gradhealth.formatting import listing

#: Names that differ by their numbers alone up to which each is given.
FEW = 2


def named(parts: Collection[str], layers: Collection[str]) -> str:
    """Layers and parameters by the fewest names that stand for them, and for no other layer.

    >>> named(["a.0", "a.1", "b.0"], ["a.0", "a.1", "b.0", "b.1"])
    'a and b.0'
    """
    known = {place for layer in layers for place in outwards(layer)}
    return listing(_families(_together(parts, layers), known))


def outwards(layer: str) -> list[str]:
    """A layer and the modules that it is in, from the inside out."""
    parts = _parts(layer)
    return [".".join(parts[: last + 1]) for last in reversed(range(len(parts)))]


def _parts(layer: str) -> list[str]:
    return layer.split(".")


def numberless(layer: str) -> str:
    """What the members of a list have in common."""
    return re.sub(r"\d+", "*", layer)


def _together(parts: Collection[str], layers: Iterable[str]) -> list[str]:
    """The fewest names that stand for some parts, and for none of the other layers."""
    others = {name for layer in layers if layer not in parts for name in outwards(layer)}
    found: dict[str, None] = {}
    for part in parts:
        names = [name for name in outwards(part) if name not in others]
        found[names[-1] if names else part] = None
    return [*found]


def _families(names: Sequence[str], layers: Collection[str]) -> list[str]:
    """Names that differ by their numbers alone, as one where there are many.

    All that lists have in common, where more than a few names differ by more than that.

    >>> _families(["stem", "a.0.f", "a.1.f", "a.2.f"], ["stem", "a.0.f", "a.1.f", "a.2.f"])
    ['stem', '3 layers of a (a.0.f to a.2.f)']
    """
    lists: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in names:
        family = numberless(name)
        lists[family.partition("*")[0]][family].append(name)
    found: list[str] = []
    for members in lists.values():
        groups = [*members.values()]
        for each in groups if len(groups) <= FEW else [[*itertools.chain(*groups)]]:
            found += each if len(each) <= FEW else [_counted(each, layers)]
    return found


def _by_number(name: str) -> list[tuple[int, str]]:
    """What names are sorted by, so that b.9 comes before b.10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _counted(names: Sequence[str], layers: Collection[str]) -> str:
    """How many names there are, of what, and the first and last of them in the order of a list.

    >>> _counted(["b.10", "b.9", "b.8"], ["b.8", "b.9", "b.10"])
    '3 layers of b (b.8 to b.10)'
    """
    kind = "layers" if names[0] in layers else "parameters"
    names = sorted(names, key=_by_number)
    places = zip(*map(_parts, names), strict=False)
    shared = itertools.takewhile(lambda parts: len({*parts}) == 1, places)
    where = "".join(f".{parts[0]}" for parts in shared).replace(".", " of ", 1)
    return f"{len(names)} {kind}{where} ({names[0]} to {names[-1]})"

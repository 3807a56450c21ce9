"""Which layers get gradient and lie on the paths, and which of them are lost, gone or new.

Layers are the same by name and number of elements; between those that only one side has, by the
number alone: a layer that was renamed, moved or wrapped keeps its size.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from pytest_gradhealth.baseline.change import Change, ChangeKind
from pytest_gradhealth.baseline.entry import Entry, KeptPath, Use
from pytest_gradhealth.formatting import listing
from pytest_gradhealth.results.names import OUTPUT

#: Elements of layers by name.
Sizes = dict[str, int]
#: Paths before and after.
Sides = tuple[Sequence[KeptPath], Sequence[KeptPath]]
#: Layers up to which each is named.
FEW = 2
#: What has become of layers.
Fate = tuple[ChangeKind, str]

_FROZEN: Fate = "lost", "no gradient reaches {layers} any more: frozen ({share})"
_CUT: Fate = (
    "lost",
    "no gradient reaches {layers} any more: cut off from the loss, or unused ({share})",
)
_GONE: Fate = "gone", "gone from the model: {layers} ({share})"
_UNLISTED: Fate = (
    "lost",
    "not in the model any more, though its forward uses them: {layers} ({share}): is an"
    " nn.ModuleList a plain list now?",
)
_SMALLER: Fate = "gone", "smaller than it was: {layers} ({share} are gone)"
_LARGER: Fate = (
    "new",
    "larger than it was: {layers} ({size} elements more; {total} got gradient before)",
)
_WOKEN: Fate = "new", "gradient reaches {layers} now ({size} elements), and did not before"
_ON_PATH: Fate = "new", "new on the path: {layers} ({size} elements; {total} got gradient before)"
_BESIDE: Fate = (
    "new",
    "new beside the path: {layers} ({size} elements; {total} got gradient before)",
)
_SKIPPED: Fate = "gone", "gone from the path: {layers}, not called any more ({share})"
_RESTING: Fate = (
    "lost",
    "no gradient on this batch for {layers} ({share}); others of the list get some",
)
_NOT_ROUND: Fate = (
    "new",
    "new on the path: {layers}, which gradient went round before: is a skip connection gone?",
)
_ROUND: Fate = (
    "gone",
    "gone from the path: {layers}, which gradient goes round now: is there a new skip connection?",
)


@dataclass(frozen=True)
class Model:
    """The layers of an entry by what becomes of their parameters."""

    entry: Entry

    def sizes(self, *uses: Use) -> Sizes:
        """The elements of the layers that are used in one of these ways, or at all."""
        found: Counter[str] = Counter()
        for kept in self.entry.parameters or ():
            if kept.use in uses or not uses:
                found[kept.layer] += kept.elements
        return dict(found)

    @cached_property
    def every(self) -> Sizes:
        """All parameters."""
        return self.sizes()

    @cached_property
    def trained(self) -> Sizes:
        """What gets gradient; idle experts do with another batch."""
        return self.sizes("gradient", "inside", "idle")

    def rest(self, layer: str) -> int:
        """How many elements of a layer get no gradient."""
        return self.every.get(layer, 0) - self.trained.get(layer, 0)

    def trains(self, module: str) -> bool | None:
        """Whether parameters of a module, or in it, get gradient; None if it has none."""
        inside = [layer for layer in self.every if module in _outwards(layer)]
        return any(layer in self.trained for layer in inside) if inside else None

    def on(self, paths: Iterable[KeptPath]) -> Sizes:
        """The layers that lie on paths."""
        names = _modules(paths)
        return {layer: n for layer, n in self.sizes("gradient").items() if layer in names}


def layer_changes(before: Entry, after: Entry, paths: Sides) -> Iterator[Change]:
    """Compare the layers that get gradient, and those that lie on `paths`, before and after.

    Nothing is said where one of the entries comes from a file that is too old to know.
    """
    if before.parameters is None or after.parameters is None:
        return
    old, new = Model(before), Model(after)
    less, more = _left_over(old.trained, new.trained, new.every)
    fates: dict[Fate, Sizes] = defaultdict(dict)
    _note_less(fates, old, new, less, more)
    _note_more(fates, old, less, more, _modules(paths[1]))
    if not fates:  # else the way of the gradient is another for that reason
        _note_rerouted(fates, old, new, paths)
    _note_idle(fates, old, new, paths)
    for (kind, text), sizes in fates.items():
        known = {"gone": old.trained, "new": new.trained}.get(kind, old.trained | new.every)
        message = _told(text, sizes, known, sum(old.trained.values()))
        yield Change(kind, (kind, text) != _RESTING, next(iter(sizes)), message)


def _left_over(old: Sizes, new: Sizes, there: Sizes) -> tuple[Sizes, Sizes]:
    """What only one of two has; of `there`, all layers of now, none has been renamed."""
    less = {layer: size for layer, size in old.items() if new.get(layer) != size}
    more = {layer: size for layer, size in new.items() if old.get(layer) != size}
    twins: dict[int, list[str]] = defaultdict(list)
    for layer, size in reversed(more.items()):
        twins[size].append(layer)
    for layer, size in [*less.items()]:
        if there.get(layer) != size and twins[size]:
            del less[layer], more[twins[size].pop()]
    return less, more


def _note_less(fates: dict[Fate, Sizes], old: Model, new: Model, less: Sizes, more: Sizes) -> None:
    """Note what has become of layers; another one may have the name of one that is gone."""
    frozen, hidden = new.sizes("frozen"), new.entry.unlisted > old.entry.unlisted
    strangers = {k: n for k, n in new.sizes("frozen", "none").items() if k not in old.every}
    for layer, size in less.items():
        lost = size - more.get(layer, 0)
        if layer not in new.every or (layer in new.trained and layer not in more):
            renamed = next((name for name, n in strangers.items() if n == size), "")
            if renamed:
                fates[_FROZEN if renamed in frozen else _CUT][renamed] = strangers.pop(renamed)
            else:
                fates[_UNLISTED if hidden else _GONE][layer] = lost
        elif lost > 0 and new.rest(layer) > old.rest(layer):
            fates[_FROZEN if layer in frozen else _CUT][layer] = lost
        elif lost > 0:
            fates[_SMALLER][layer] = lost


def _note_more(
    fates: dict[Fate, Sizes], old: Model, less: Sizes, more: Sizes, on_paths: set[str]
) -> None:
    for layer, size in more.items():
        won = size - less.get(layer, 0)
        if layer not in old.every or (layer in old.trained and layer not in less):
            fates[_BESIDE if on_paths.isdisjoint(_outwards(layer)) else _ON_PATH][layer] = won
        elif won > 0:
            fates[_WOKEN if layer not in less else _LARGER][layer] = won


def _note_idle(fates: dict[Fate, Sizes], old: Model, new: Model, paths: Sides) -> None:
    """Members of a list that were called on the path and are not any more, though others are.

    Beside the path they may be experts, to whom this batch sends nothing.
    """
    busy, resting = old.sizes("gradient"), {_numberless(layer) for layer in old.sizes("idle")}
    gone = _modules(paths[0]) - _modules(paths[1])
    for layer, size in new.sizes("idle").items():
        if layer in busy:
            skipped = _numberless(layer) not in resting and not gone.isdisjoint(_outwards(layer))
            fates[_SKIPPED if skipped else _RESTING][layer] = size


def _note_rerouted(fates: dict[Fate, Sizes], old: Model, new: Model, paths: Sides) -> None:
    """Layers of both that gradient could go round and cannot any more, or the other way.

    Experts come and go with the batch.
    """
    less, more = _left_over(old.on(paths[0]), new.on(paths[1]), new.every)
    both = old.sizes("gradient").keys() & new.sizes("gradient").keys()
    resting = {_numberless(layer) for model in (old, new) for layer in model.sizes("idle")}
    for fate, sizes in ((_ROUND, less), (_NOT_ROUND, more)):
        for layer, size in sizes.items():
            resized = layer in less and layer in more
            if layer in both and not resized and _numberless(layer) not in resting:
                fates[fate][layer] = size


def _modules(paths: Iterable[KeptPath]) -> set[str]:
    """The modules that lie on paths."""
    return {point.module for path in paths for point in path.points}


def _numberless(layer: str) -> str:
    """What the members of a list have in common."""
    return re.sub(r"\d+", "*", layer)


def _told(text: str, sizes: Sizes, known: Iterable[str], total: int) -> str:
    """The words of a fate, with names that stand for all of these layers and no other."""
    size = sum(sizes.values())
    return text.format(
        layers=listing(_families(_together(sizes, known))).replace(OUTPUT, "the model's own"),
        share=f"{size:,} of the {total:,} elements that got gradient",
        size=f"{size:,}",
        total=f"{total:,}",
    )


def _together(layers: Collection[str], known: Iterable[str]) -> list[str]:
    """The fewest names that stand for some layers, and for none of the others that are known.

    >>> _together(["a.0", "a.1", "b.0"], ["a.0", "a.1", "b.0", "b.1"])
    ['a', 'b.0']
    """
    others = {name for layer in known if layer not in layers for name in _outwards(layer)}
    found: dict[str, None] = {}
    for layer in layers:
        names = [name for name in _outwards(layer) if name not in others]
        found[names[-1] if names else layer] = None
    return [*found]


def _families(names: Sequence[str]) -> list[str]:
    """Names that differ by their numbers alone, as one where there are many.

    >>> _families(["stem", "blocks.0.f", "blocks.1.f", "blocks.2.f"])
    ['stem', 'blocks.*.f (3 of them)']
    """
    members: dict[str, list[str]] = defaultdict(list)
    for name in names:
        members[_numberless(name)].append(name)
    found: list[str] = []
    for family, each in members.items():
        found += each if len(each) <= FEW else [f"{family} ({len(each)} of them)"]
    return found


def _outwards(layer: str) -> list[str]:
    """A layer and the modules that it is in, from the inside out."""
    parts = layer.split(".")
    return [".".join(parts[: last + 1]) for last in reversed(range(len(parts)))]

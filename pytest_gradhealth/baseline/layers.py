"""Which layers get gradient and lie on the paths, and which of them are lost, gone or new.

Layers are the same by name and number of elements; between those that only one side has, by the
number alone: a layer that was renamed, moved or wrapped keeps its size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence

from pytest_gradhealth.baseline.change import Change, ChangeKind
from pytest_gradhealth.baseline.entry import Entry, Use
from pytest_gradhealth.baseline.model import Model, Sizes
from pytest_gradhealth.baseline.naming import named, outwards
from pytest_gradhealth.results.names import OUTPUT

#: What has become of layers.
Fate = tuple[ChangeKind, str]

_CUT: Fate = (
    "lost",
    "no gradient reaches {layers} any more: cut off from the loss, or unused ({share})",
)
_SILENT: Fate = (
    "zero",
    "no gradient reaches {layers} any more: it is exactly zero ({share}): is a factor or a mask"
    " zero?",
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
_RESTING: Fate = (
    "lost",
    "no gradient on this batch for {layers} ({share}); others of the list get some",
)
#: What has become of parameters that are still there, by their use.
_UNUSED: dict[Use, Fate] = {
    "frozen": ("lost", "no gradient reaches {layers} any more: frozen ({share})"),
    "uncalled": ("gone", "not called any more, though others of the list are: {layers} ({share})"),
    "none": _CUT,
}


def layer_changes(before: Entry, after: Entry, on_paths: Collection[str]) -> Iterator[Change]:
    """Compare the layers that get gradient, before and after; some of them lie `on_paths` now.

    Nothing is said where one of the entries comes from a file that is too old to know.
    """
    if before.parameters is None or after.parameters is None:
        return
    old, new = Model(before), Model(after)
    less, more = left_over(old.trained, new.trained, new.every)
    fates: dict[Fate, Sizes] = defaultdict(dict)
    _note_less(fates, old, new, less, more)
    _note_more(fates, old, new, less, more, on_paths)
    if before.flow is not None:  # older files take zeros for a gradient
        _note_silent(fates, old, new)
    _note_idle(fates, old, new)
    for (kind, text), sizes in fates.items():
        known = {"gone": old.trained, "new": new.trained}.get(kind, old.trained | new.every)
        message = _told(text, sizes, known, sum(old.trained.values()))
        yield Change(kind, (kind, text) != _RESTING, next(iter(sizes)), message)


def left_over(old: Sizes, new: Sizes, there: Sizes) -> tuple[Sizes, Sizes]:
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
    hidden, idle = new.entry.unlisted > old.entry.unlisted, old.sizes("idle")
    strangers = {k: n for k, n in new.sizes(*_UNUSED).items() if k not in old.every}
    for layer, size in less.items():
        lost = size - more.get(layer, 0)
        if layer not in new.every or (layer in new.trained and layer not in more):
            renamed = next((name for name, n in strangers.items() if n == size), "")
            if renamed:
                fates[_unused(new, renamed)][renamed] = strangers.pop(renamed)
            else:
                fate = _UNLISTED if hidden else _GONE
                fates[fate] |= _labels(layer, lost, old.names(layer), whole=True)
        elif lost > 0 and new.rest(layer) > old.rest(layer):
            if layer not in idle:  # what older files call idle may be forgotten as well
                names = _only_in(new, old, layer, *_UNUSED)
                whole = layer not in new.trained
                fates[_unused(new, layer)] |= _labels(layer, lost, names, whole=whole)
        elif lost > 0:
            names = _only_in(old, new, layer)
            fates[_GONE if names else _SMALLER] |= _labels(layer, lost, names)


def _unused(model: Model, layer: str) -> Fate:
    """What has become of a layer that gets no gradient, or not all of it."""
    return next(fate for use, fate in _UNUSED.items() if layer in model.sizes(use))


def _note_more(
    fates: dict[Fate, Sizes],
    old: Model,
    new: Model,
    less: Sizes,
    more: Sizes,
    on_paths: Collection[str],
) -> None:
    idle = new.sizes("idle")
    for layer, size in more.items():
        won = size - less.get(layer, 0)
        added = _ON_PATH if not {*on_paths}.isdisjoint(outwards(layer)) else _BESIDE
        if layer not in old.every or (layer in old.trained and layer not in less):
            fates[added] |= _labels(layer, won, new.names(layer), whole=True)
        elif won > 0 and new.every[layer] == old.every[layer]:
            if layer not in idle:
                names = _only_in(old, new, layer, *_UNUSED)
                fates[_WOKEN] |= _labels(layer, won, names, whole=layer not in less)
        elif won > 0:
            names = _only_in(new, old, layer)
            fates[added if names else _LARGER] |= _labels(layer, won, names)


def _note_silent(fates: dict[Fate, Sizes], old: Model, new: Model) -> None:
    """Note layers of which all the gradient is exactly zero now."""
    busy, before = old.sizes("gradient", "inside"), old.sizes("zero")
    for layer, size in new.sizes("zero").items():
        alike = old.every.get(layer) == new.every[layer] and old.is_called_as_in(new, layer)
        if alike and min(size, busy.get(layer, 0)) > 0:
            names = _only_in(new, old, layer, "zero")
            silenced = size - before.get(layer, 0)
            if silenced > 0:
                fates[_SILENT] |= _labels(layer, silenced, names, whole=size == new.every[layer])


def _note_idle(fates: dict[Fate, Sizes], old: Model, new: Model) -> None:
    """Note experts that get nothing of this batch."""
    busy = old.sizes("gradient")
    for layer, size in new.sizes("idle").items():
        if layer in busy:
            fates[_RESTING][layer] = size


def _labels(layer: str, size: int, names: Sequence[str], *, whole: bool = False) -> Sizes:
    """What to call some parameters of a layer: by its name, or by theirs where it is a part of it.

    The size counts with the first. Parameters of the model itself have no layer to go by.
    """
    if layer == OUTPUT:
        labels = [*names] or ["the model's own parameters"]
    else:
        labels = [layer] if whole or not names else [f"{layer}.{name}" for name in names]
    return dict.fromkeys(labels, 0) | {labels[0]: size}


def _only_in(one: Model, other: Model, layer: str, *uses: Use) -> list[str]:
    """Parameters of a layer that one model alone uses so; none where names were not kept."""
    theirs = other.names(layer, *uses)
    known = bool(theirs) or layer not in other.sizes(*uses)
    return [name for name in one.names(layer, *uses) if known and name not in theirs]


def _told(text: str, sizes: Sizes, known: Iterable[str], total: int) -> str:
    """The words of a fate, with names that stand for all of these layers and no other."""
    size = sum(sizes.values())
    return text.format(
        layers=named(sizes, [*known]),
        share=f"{size:,} of the {total:,} elements that got gradient",
        size=f"{size:,}",
        total=f"{total:,}",
    )

"""The layers of an entry by what becomes of their parameters, and which is which in another one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from pytest_gradhealth.baseline.entry import Entry, Use
from pytest_gradhealth.baseline.naming import numberless, outwards

#: Elements of layers by name.
Sizes = dict[str, int]


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

    def names(self, layer: str, *uses: Use) -> list[str]:
        """The names of a layer's parameters that are used in one of these ways, or at all."""
        rows = (p for p in self.entry.parameters or () if p.layer == layer)
        return [name for p in rows if p.use in uses or not uses for name in p.names]

    @cached_property
    def every(self) -> Sizes:
        """All parameters."""
        return self.sizes()

    @cached_property
    def trained(self) -> Sizes:
        """What gets gradient, if one of zeros; idle experts do with another batch."""
        return self.sizes("gradient", "inside", "idle", "zero")

    def rest(self, layer: str) -> int:
        """How many elements of a layer get no gradient."""
        return self.every.get(layer, 0) - self.trained.get(layer, 0)

    def trains(self, module: str) -> bool | None:
        """Whether parameters of a module, or in it, get gradient; None if it has none."""
        inside = [layer for layer in self.every if module in outwards(layer)]
        return any(layer in self.trained for layer in inside) if inside else None

    @cached_property
    def calls(self) -> dict[str, int]:
        """How often layers were called, and those of the layers in a module that were most."""
        found: dict[str, int] = defaultdict(int)
        for record in self.entry.flow or ():
            for module in outwards(record.layer) if record.calls else ():
                found[module] = max(found[module], record.calls)
        return found

    def is_called_as_in(self, other: Model, module: str) -> bool:
        """Whether a module is called as often, as far as both know; a loop may run longer."""
        ours, theirs = self.calls.get(module, 0), other.calls.get(module, 0)
        return ours == theirs or not (ours and theirs)


def same_layers(old: Model, new: Model) -> dict[str, str]:
    """Which layer of one model is which of another, as far as their names tell for certain.

    Names may have got another beginning, or wrappers in them. Of lists that have got or lost
    members, or numbered them anew, none is told.
    """
    pairs = dict(_by_name(old.every, new.every))
    left = [layer for layer in old.every if layer not in pairs]
    found = {*pairs.values()}
    right = [layer for layer in new.every if layer not in found]
    before, after = _moved(old, new, left, right)
    names = _unique(right)
    for plain, layer in _unique(left).items():
        other = names.get(after + plain.removeprefix(before)) if plain.startswith(before) else None
        if other is not None and new.every[other] == old.every[layer]:
            pairs[layer] = other
    found = {*pairs.values()}
    gone = {numberless(layer) for layer in old.every if layer not in pairs}
    come = {numberless(layer) for layer in new.every if layer not in found}
    return {
        one: other
        for one, other in pairs.items()
        if numberless(one) not in gone and numberless(other) not in come
    }


def _by_name(old: Sizes, new: Sizes) -> Iterator[tuple[str, str]]:
    """The layers that have the same name and size."""
    names = _unique(new)
    for plain, layer in _unique(old).items():
        if plain in names and new[names[plain]] == old[layer]:
            yield layer, names[plain]


def _unique(layers: Iterable[str]) -> dict[str, str]:
    plain = Counter(map(_plain, layers))
    return {_plain(layer): layer for layer in layers if plain[_plain(layer)] == 1}


def _plain(layer: str) -> str:
    """A name without what wrappers put into it: "_orig_mod", "_checkpoint_wrapped_module"."""
    return ".".join(part for part in layer.split(".") if not part.startswith("_"))


def _moved(old: Model, new: Model, left: list[str], right: list[str]) -> tuple[str, str]:
    """The beginnings of names that most of these layers have got in place of others."""
    heads: Counter[tuple[str, str]] = Counter()
    by_size: dict[int, list[str]] = defaultdict(list)
    for layer in right:
        by_size[new.every[layer]].append(_plain(layer))
    for layer in left:
        name = _plain(layer)
        for other in by_size[old.every[layer]]:
            parts, others = name.split("."), other.split(".")
            while parts and others and parts[-1] == others[-1]:
                del parts[-1], others[-1]
            if len(parts) < len(name.split(".")):
                before, after = ("".join(f"{part}." for part in each) for each in (parts, others))
                heads[before, after] += 1
    return heads.most_common(1)[0][0] if heads else ("", "")

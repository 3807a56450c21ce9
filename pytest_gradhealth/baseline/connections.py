"""Which layers use which, before and after: connections that are gone, detached or new.

Two layers that both sides know are compared by the ways between them. What lies on a way and is
known to one side alone (a layer that is new, an expert that this batch has left idle) may stand for
any connection, so that nothing is said of what may lead through it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from pytest_gradhealth.baseline.change import Change, ChangeKind
from pytest_gradhealth.baseline.entry import Entry
from pytest_gradhealth.baseline.model import Model, same_layers
from pytest_gradhealth.baseline.naming import named
from pytest_gradhealth.results.flow import FlowRecord
from pytest_gradhealth.results.names import LOSS

#: Layers that use others.
Layers = tuple[str, ...]
_CUT_OFF = "is a connection gone, detached, or without a gradient (sample, argmax)?"
_DETACHED = "is a connection gone, or detached?"


@dataclass(frozen=True)
class _Words:
    """What to say of connections that one side has and the other does not."""

    far: tuple[ChangeKind, str]
    direct: tuple[ChangeKind, str]
    round: tuple[ChangeKind, str]


_LOST = _Words(
    ("lost", f"no gradient from {{users}} reaches {{layers}} any more: {_CUT_OFF}"),
    ("gone", f"no gradient from {{users}} reaches {{layers}} directly any more: {_DETACHED}"),
    (
        "new",
        "new on the path: {layers}, which gradient went round before: is a {users} gone, or"
        " detached?",
    ),
)
_WON = _Words(
    ("new", "gradient from {users} reaches {layers} now, and did not before"),
    ("new", "gradient from {users} reaches {layers} directly now: is there a new connection?"),
    (
        "gone",
        "gone from the path: {layers}, which gradient goes round now: is there a new {users}?",
    ),
)


def connection_changes(before: Entry, after: Entry) -> Iterator[Change]:
    """Compare which layers use which, as far as both sides know the layers.

    Layers that were called another number of times are not compared: a loop may have run longer.
    None are where other members of a list are idle: the forward has gone another way.
    """
    assert before.flow is not None
    assert after.flow is not None
    if before.flow == after.flow:
        return
    old, new = Model(before), Model(after)
    same = same_layers(old, new)
    known = {*same.values()}
    if {same.get(layer) for layer in old.sizes("idle")} != new.sizes("idle").keys():
        return
    was, now = _Flow(_renamed(before.flow, same)), _Flow({r.layer: r for r in after.flow})
    kept = [
        layer
        for layer in now.records
        if layer in known and 0 < now.calls(layer) == was.calls(layer)
    ]
    layers = [*new.every]
    reached: dict[tuple[int, int, int], list[str]] = defaultdict(list)
    for layer in kept:
        then, here = was.records[layer].reached, now.records[layer].reached
        reached[then, here, now.calls(layer)].append(layer)
    for (then, here, calls), group in reached.items():
        text = (
            f"gradient reaches {here} of the {calls} calls of {{layers}}, and reached {then} before"
        )
        if here < then:
            yield _change("lost", f"{text}: is one of them detached?", group, "", layers)
        elif here > then:
            yield _change("new", text, group, "", layers)
    yield from _told(_differences(was, now, kept), _LOST, layers)
    yield from _told(_differences(now, was, kept), _WON, layers)


@dataclass(frozen=True)
class _Flow:
    """The layers of one side and what stands for several of them, by name, in forward order."""

    records: dict[str, FlowRecord]

    @cached_property
    def layers(self) -> set[str]:
        """Those that are layers."""
        return {name for name in self.records if self.calls(name)}

    def calls(self, name: str) -> int:
        """How often a layer was called; 0 for what is none."""
        return self.records[name].calls if name in self.records else 0

    def users(self, name: str) -> tuple[str, ...]:
        """What uses a layer directly; nothing uses the loss."""
        return self.records[name].users if name in self.records else ()

    def behind(self, bits: Mapping[str, int], passing: Collection[str]) -> dict[str, int]:
        """Which layers, as bits, ways from each one come to that lead through some alone."""
        found = dict.fromkeys([*self.records, LOSS], 0)
        moving = True
        while moving:
            moving = False
            for name in reversed(self.records):
                mine = found[name]
                for user in self.users(name):
                    mine |= bits.get(user, 0)
                    if user not in self.layers or user in passing:
                        mine |= found[user]
                moving |= mine != found[name]
                found[name] = mine
        return found

    def between(self, layer: str, user: str) -> list[str]:
        """The layers that all ways from a layer to one that uses it lead through."""
        way = [name for name in self._way(layer, user) if name in self.layers]
        return [name for name in way if not self._way(layer, user, without=name)]

    def _way(self, start: str, end: str, without: str = "") -> list[str]:
        """What one of the shortest ways leads through, and its end; nothing if there is none."""
        reached = {name: "" for name in self.users(start) if name != without}
        queue = [*reached]
        for name in queue:
            if name == end:
                way = []
                while name:
                    way.append(name)
                    name = reached[name]
                return way[:0:-1]
            for user in self.users(name):
                if user not in reached and user != without:
                    reached[user] = name
                    queue.append(user)
        return []


@dataclass
class _Differences:
    """Connections that one side alone has, those to the same layers together.

    `far` are between layers that the other has no way between, `direct` lead through others there,
    and `round` are the layers that all of these ways lead through, by whether to the loss alone.
    """

    far: dict[Layers, list[str]] = field(default_factory=lambda: defaultdict(list))
    direct: dict[Layers, list[str]] = field(default_factory=lambda: defaultdict(list))
    round: dict[bool, dict[str, None]] = field(default_factory=lambda: defaultdict(dict))


def _renamed(flow: Collection[FlowRecord], names: Mapping[str, str]) -> dict[str, FlowRecord]:
    """The records under the names of now, and those of layers that nobody knows now apart."""

    def name(layer: str) -> str:
        return layer if layer == LOSS else names.get(layer, f"{layer} (before)")

    return {
        name(r.layer): FlowRecord(name(r.layer), tuple(map(name, r.users)), r.calls, r.reached)
        for r in flow
    }


def _differences(one: _Flow, other: _Flow, kept: Collection[str]) -> _Differences:
    """What connections between layers that are `kept` one side has, and the other does not."""
    found = _Differences()
    bits = {layer: 1 << place for place, layer in enumerate([*kept, LOSS])}
    far, direct = one.behind(bits, kept), one.behind(bits, ())
    reached = other.behind(bits, other.layers)
    around = other.behind(bits, other.layers.difference(kept))
    for layer in kept:
        apart = far[layer] & ~reached[layer]
        if apart:
            found.far[_layers(apart, bits)].append(layer)
        longer = _layers(direct[layer] & ~around[layer] & ~apart, bits)
        if longer:
            through = other.between(layer, longer[0])
            found.round[longer == (LOSS,)] |= dict.fromkeys(through)
            if not through:
                found.direct[longer].append(layer)
    return found


def _layers(some: int, bits: Mapping[str, int]) -> Layers:
    return tuple(layer for layer, bit in bits.items() if some & bit)


def _told(found: _Differences, words: _Words, layers: Collection[str]) -> Iterator[Change]:
    for to_loss, through in found.round.items():
        if through:
            kind, text = words.round
            users = "skip connection" + (" or term of the loss" if to_loss else "")
            yield _change(kind, text, [*through], users, layers)
    for (kind, text), groups in ((words.far, found.far), (words.direct, found.direct)):
        for readers, group in groups.items():
            yield _change(kind, text, group, _named(readers, layers), layers)


def _change(
    kind: ChangeKind, text: str, group: Collection[str], users: str, layers: Collection[str]
) -> Change:
    first = next(iter(group))
    return Change(kind, True, first, text.format(users=users, layers=named(group, layers)))


def _named(users: Collection[str], layers: Collection[str]) -> str:
    """Layers by name, and the loss."""
    if LOSS not in users:
        return named(users, layers)
    rest = [user for user in users if user != LOSS]
    return f"{named(rest, layers)} and the loss" if rest else "the loss"

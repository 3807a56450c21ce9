"""A directed graph in which some vertices are marked: what of it depends on what."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce


@dataclass(frozen=True)
class Between:
    """The marks on the ways from one mark to others, and the leaves that each vertex there takes.

    They are `joined` if anything else comes in there.
    """

    marks: frozenset[int]
    taken: Sequence[Sequence[int]]
    joined: bool


#: What is noted of a vertex in place of a leaf where it consumes what takes no gradient.
GIVEN = 0


class MarkedGraph:
    """The tensors of one graph, some of them marked; holds integers, no tensors.

    Vertices are added in topological order from the loss, which is the first.
    """

    def __init__(self) -> None:
        self._children: list[dict[int, bool]] = []
        self._mark_at: dict[int, int] = {}
        self._vertex_of: dict[int, int] = {}
        self._leaves: dict[int, list[int]] = {}

    def _added(self, users: Mapping[int, bool], mark: int | None) -> int:
        vertex = len(self._children)
        self._children.append({})
        for user, counts in users.items():
            self._children[user][vertex] = counts
        if mark is not None:
            self._mark_at[vertex] = mark
            self._vertex_of[mark] = vertex
        return vertex

    @property
    def marks(self) -> Collection[int]:
        """The marks that the loss depends on."""
        return self._vertex_of.keys()

    def take(self, vertex: int, leaf: int) -> None:
        """Note that a vertex consumes a leaf that is none itself, by any number."""
        self._leaves.setdefault(vertex, []).append(leaf)

    def forget(self, mark: int) -> None:
        """Have a vertex be none of the marked ones any more."""
        del self._mark_at[self._vertex_of.pop(mark)]

    @property
    def leaves(self) -> Mapping[int, Sequence[int]]:
        """The leaves that vertices consume, where there are some."""
        return self._leaves

    def uses(self) -> Iterator[tuple[int | None, Mapping[int, bool]]]:
        """Yield the mark of each vertex, from the loss on, and what it consumes and counts."""
        for vertex, inputs in enumerate(self._children):
            yield self._mark_at.get(vertex), inputs

    def behind(self, groups: Sequence[Collection[int]]) -> list[int]:
        """Return which groups of marks each vertex depends on: bits, in the order of the groups."""
        bits: dict[int, int] = {}
        for place, group in enumerate(groups):
            bits |= {self._vertex_of[m]: 1 << place for m in group if m in self._vertex_of}
        found = [0] * len(self._children)
        for vertex in range(len(self._children) - 1, -1, -1):
            found[vertex] = bits.get(vertex, 0)
            for child in self._children[vertex]:
                found[vertex] |= found[child]
        return found

    def depends(self, mark: int, behind: Sequence[int]) -> int:
        """What `behind` says of a mark."""
        return behind[self._vertex_of[mark]]

    def sources(self, wanted: Collection[int]) -> list[int]:
        """Return the wanted marks that depend on no other wanted mark, in ascending order."""
        carries = self.behind([wanted])
        return sorted(
            mark
            for mark, vertex in self._vertex_of.items()
            if mark in wanted and not any(carries[child] for child in self._children[vertex])
        )

    def outermost(self, wanted: Collection[int]) -> list[int]:
        """Return the wanted marks that the loss gets to without another, in ascending order."""
        return sorted(mark for mark in self.short_of(wanted) if mark in wanted)

    def short_of(self, closed: Collection[int]) -> set[int]:
        """Return the marks that the loss gets to without going through one that is closed."""
        past = {0}
        for vertex, inputs in enumerate(self._children):
            if vertex in past and self._mark_at.get(vertex) not in closed:
                past.update(inputs)
        return {mark for mark, vertex in self._vertex_of.items() if vertex in past}

    def gets_past(
        self, mark: int, calls: Collection[int], later: Collection[int], aside: Collection[int]
    ) -> bool:
        """Whether ways from a mark join, past all of some calls, what comes of the `later` ones.

        Where that does not feed further calls, it may be on its way to marks `aside`.
        """
        behind = self.behind([[mark], calls, later])
        ahead = self._ahead([calls, aside])
        return any(
            behind[vertex] & 4 and ahead[vertex] != 2 and any(behind[c] & 3 == 1 for c in inputs)
            for vertex, inputs in enumerate(self._children)
        )

    def joined(self, mark: int, calls: Sequence[int]) -> list[int]:
        """Return those of some calls that ways from a mark, past all of them, join on to others."""
        behind, each = self.behind([[mark], calls]), self.behind([[call] for call in calls])
        ahead = self._ahead([calls])
        found = 0
        for vertex, inputs in enumerate(self._children):
            if behind[vertex] & 2 and ahead[vertex] and any(behind[c] & 3 == 1 for c in inputs):
                found |= each[vertex]
        return [call for place, call in enumerate(calls) if found >> place & 1]

    def _ahead(self, groups: Sequence[Collection[int]]) -> list[int]:
        """Which groups of marks depend on each vertex: bits, in the order of the groups."""
        found = [0] * len(self._children)
        for place, group in enumerate(groups):
            for mark in group:
                found[self._vertex_of[mark]] |= 1 << place
        for vertex, inputs in enumerate(self._children):
            for child in inputs:
                found[child] |= found[vertex]
        return found

    def between(self, far: int, near: Collection[int]) -> Between:
        """Return what is on the ways from one mark to others, but for these."""
        behind, ahead = self.behind([[far]]), self._ahead([near])
        on_way = [v for v, both in enumerate(map(operator.and_, behind, ahead)) if both]
        first, lasts = self._vertex_of[far], {self._vertex_of[mark] for mark in near}
        inside = [vertex for vertex in on_way if vertex != first and vertex not in lasts]
        taken = [self._leaves.get(vertex, ()) for vertex in inside]
        return Between(
            frozenset(self._mark_at[v] for v in inside if v in self._mark_at),
            taken,
            any(GIVEN in leaves for leaves in taken)
            or any(not behind[c] for v in on_way if v != first for c in self._children[v]),
        )

    def inputs(self, mark: int, wanted: Collection[int]) -> set[int]:
        """Return the wanted marks that a mark was made of, with no other in between."""
        return self.made_of(mark, wanted)[0]

    def made_of(self, mark: int, wanted: Collection[int]) -> tuple[set[int], set[int]]:
        """Return the same, and the leaves that it was made of with no wanted mark in between."""
        vertex = self._vertex_of[mark]
        found: set[int] = set()
        seen: set[int] = {vertex}
        stack = [*self._children[vertex]]
        while stack:
            vertex = stack.pop()
            here = self._mark_at.get(vertex)
            if here is not None and here in wanted:
                found.add(here)
            elif vertex not in seen:
                seen.add(vertex)
                stack += self._children[vertex]
        return found, {leaf for each in seen for leaf in self._leaves.get(each, ())}

    def last_of(self, marks: Collection[int]) -> list[int]:
        """Return those of some marks that no other of them depends on."""
        behind, led = self.behind([[mark] for mark in marks]), 0
        for place, mark in enumerate(marks):
            led |= self.depends(mark, behind) & ~(1 << place)
        return [mark for place, mark in enumerate(marks) if not led >> place & 1]

    def nearest(self, groups: Sequence[int], wanted: Collection[int]) -> dict[int, int]:
        """Return the wanted marks that some marks get to without another, and which of them do.

        As bits, in the order of the marks. On the way to the loss these are the first.
        """
        own: dict[int, int] = {}
        for place, mark in enumerate(groups):
            vertex = self._vertex_of[mark]
            own[vertex] = own.get(vertex, 0) | 1 << place
        found: dict[int, int] = {}
        onwards = [0] * len(self._children)
        for vertex in range(len(self._children) - 1, -1, -1):
            come = reduce(operator.or_, (onwards[child] for child in self._children[vertex]), 0)
            here = self._mark_at.get(vertex)
            if here in wanted and come:
                found[self._mark_at[vertex]] = come
            onwards[vertex] = own.get(vertex, 0) | (0 if here in wanted else come)
        return found

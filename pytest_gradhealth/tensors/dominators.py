"""Dominators of a directed graph: what every way to a node has to cross."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from torch.autograd.graph import Node

from pytest_gradhealth.tensors.graph import Edge, Graph, op_name, zeroed_inputs


@dataclass(frozen=True)
class Chain:
    """The marks that dominate the first of them, in the order towards the loss.

    `ops[i]` names the unmarked operations between `marks[i]` and the next mark (or the loss).
    """

    marks: tuple[int, ...]
    ops: tuple[tuple[str, ...], ...]


class DominatorTree:
    """Immediate dominators of the tensors of one graph; holds integers and names, no tensors.

    Vertices are added in topological order from the loss, which is the first. A vertex is an
    output of a node or, where several outputs of a node are used, the node that joins them.
    """

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._depth: list[int] = []
        self._jump: list[int] = []
        self._op: list[str] = []
        self._children: list[dict[int, bool]] = []
        self._mark_at: dict[int, int] = {}
        self._vertex_of: dict[int, int] = {}
        self._leaves: dict[int, list[int]] = {}

    def add(self, users: Mapping[int, bool], op: str, mark: int | None = None) -> int:
        """Add a vertex whose value the vertices `users` consume (none for the loss).

        They say whether it counts there, which it does not where zero multiplies it.
        """
        vertex = len(self._parent)
        above = reduce(self._meet, users, next(iter(users), vertex))
        self._parent.append(above)
        self._depth.append(self._depth[above] + 1 if users else 0)
        self._jump.append(self._jump_from(above) if users else vertex)
        self._op.append(op)
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
        found = [0] * len(self._parent)
        for vertex in range(len(self._parent) - 1, -1, -1):
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

    def entries(self, carriers: Collection[int], wanted: Collection[int]) -> list[int]:
        """Return where parts of the graph begin that only one term of the loss sees.

        Such a part, a decoder or one of several heads, is what its last wanted mark dominates and
        no other does in turn. It gets what carriers outside of it compute; of the wanted marks that
        all of that has to cross, its entry is the first. A branch that carriers get past on the way
        to further wanted marks is no such part.
        """
        carries = self.behind([carriers])
        part: list[int | None] = []
        for vertex, above in enumerate(self._parent):
            own = vertex if self._mark_at.get(vertex) in wanted else None
            part.append(own if not vertex or part[above] is None else part[above])
        doors: dict[int, int] = {}
        for vertex, last in enumerate(part):
            inputs = self._children[vertex]
            if last is not None and any(carries[c] and part[c] != last for c in inputs):
                doors[last] = self._meet(doors.get(last, vertex), vertex)
        lasts = list(doors)
        passed = self._passed(lasts, carries, wanted)
        found = (
            filter(wanted.__contains__, self._marks_above(doors[last]))
            for place, last in enumerate(lasts)
            if not passed >> place & 1
        )
        return sorted(map(next, found))

    def _passed(
        self, places: Sequence[int], carries: Sequence[int], wanted: Collection[int]
    ) -> int:
        """The places, as bits, that carriers get past on the way to further wanted marks."""
        behind = self.behind([[self._mark_at[place]] for place in places])
        own = {place: 1 << number for number, place in enumerate(places)}
        inner = [False] * len(self._parent)
        passed = 0
        for vertex, inputs in enumerate(self._children):
            inner[vertex] |= self._mark_at.get(vertex) in wanted
            beyond = behind[vertex] & ~own.get(vertex, 0) if inner[vertex] else 0
            for child in inputs:
                inner[child] |= inner[vertex]
                passed |= beyond & ~behind[child] if carries[child] else 0
        return passed

    def joins_a_branch(self, groups: Sequence[Sequence[int]], behind: Sequence[int]) -> set[int]:
        """Return the groups that come into another's only inside branches of it, by number.

        The other gets past every place where the two meet first, and they are one again on its
        further way: what computes the bias of an attention does so, and no second tower.
        """
        crossed = [{*self._above(self._vertex_of[group[0]])} for group in groups]
        met: dict[tuple[int, int], list[int]] = {}
        for vertex, inputs in enumerate(self._children):
            for child in inputs:
                for one, other in _pairs(behind[child], behind[vertex] & ~behind[child]):
                    met.setdefault((one, other), []).append(vertex)
        return {
            one
            for (one, other), places in met.items()
            if crossed[other].isdisjoint(places)
            and not crossed[other].isdisjoint(met.get((other, one), ()))
        }

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
        found = [0] * len(self._parent)
        for place, group in enumerate(groups):
            for mark in group:
                found[self._vertex_of[mark]] |= 1 << place
        for vertex, inputs in enumerate(self._children):
            for child in inputs:
                found[child] |= found[vertex]
        return found

    def inputs(self, mark: int, wanted: Collection[int]) -> set[int]:
        """Return the wanted marks that a mark was made of, with no other in between."""
        found: set[int] = set()
        seen: set[int] = set()
        stack = [*self._children[self._vertex_of[mark]]]
        while stack:
            vertex = stack.pop()
            here = self._mark_at.get(vertex)
            if here is not None and here in wanted:
                found.add(here)
            elif vertex not in seen:
                seen.add(vertex)
                stack += self._children[vertex]
        return found

    def nearest(self, groups: Sequence[int], wanted: Collection[int]) -> dict[int, int]:
        """Return the wanted marks that some marks get to without another, and which of them do.

        As bits, in the order of the marks. On the way to the loss these are the first.
        """
        own: dict[int, int] = {}
        for place, mark in enumerate(groups):
            vertex = self._vertex_of[mark]
            own[vertex] = own.get(vertex, 0) | 1 << place
        found: dict[int, int] = {}
        onwards = [0] * len(self._parent)
        for vertex in range(len(self._parent) - 1, -1, -1):
            come = reduce(operator.or_, (onwards[child] for child in self._children[vertex]), 0)
            here = self._mark_at.get(vertex)
            if here in wanted and come:
                found[self._mark_at[vertex]] = come
            onwards[vertex] = own.get(vertex, 0) | (0 if here in wanted else come)
        return found

    def climb(self, mark: int, wanted: Collection[int]) -> Iterator[tuple[int | None, str]]:
        """Yield what dominates `mark`, itself first: a wanted mark or None, and an operation."""
        for vertex in self._above(self._vertex_of[mark]):
            here = self._mark_at.get(vertex)
            yield (here if here in wanted else None), self._op[vertex]

    def _marks_above(self, vertex: int) -> Iterator[int]:
        return (self._mark_at[v] for v in self._above(vertex) if v in self._mark_at)

    def _above(self, vertex: int) -> Iterator[int]:
        """The vertices that dominate one, itself first."""
        while True:
            yield vertex
            if self._parent[vertex] == vertex:
                return
            vertex = self._parent[vertex]

    def chain(self, mark: int, wanted: Collection[int]) -> Chain:
        """Return the wanted marks that dominate `mark`, from itself up to the loss."""
        marks: list[int] = []
        ops: list[list[str]] = []
        for here, op in self.climb(mark, wanted):
            if here is not None:
                marks.append(here)
                ops.append([])
            elif op:
                ops[-1].append(op)
        return Chain(tuple(marks), tuple(map(tuple, ops)))

    def _jump_from(self, above: int) -> int:
        """Pick the new vertex's jump pointer so that climbing takes logarithmic time."""
        up = self._jump[above]
        upper = self._jump[up]
        even = self._depth[above] - self._depth[up] == self._depth[up] - self._depth[upper]
        return upper if even else above

    def _meet(self, a: int, b: int) -> int:
        """Return the nearest vertex that dominates both."""
        if self._depth[a] < self._depth[b]:
            a, b = b, a
        while self._depth[a] > self._depth[b]:
            far = self._jump[a]
            a = far if self._depth[far] >= self._depth[b] else self._parent[a]
        while a != b:
            if self._jump[a] != self._jump[b]:
                a, b = self._jump[a], self._jump[b]
            else:
                a, b = self._parent[a], self._parent[b]
        return a


def _pairs(ones: int, others: int) -> Iterator[tuple[int, int]]:
    """All pairs of a bit that is set in `ones` and one that is set in `others`."""
    ours, theirs = (
        [place for place in range(bits.bit_length()) if bits >> place & 1]
        for bits in (ones, others)
    )
    return itertools.product(ours, theirs)


def dominators(graph: Graph, marks: Mapping[Edge, int]) -> DominatorTree:
    """Return the dominator tree of a graph; parameters are left out unless they are marked.

    Which vertices take them is noted, by the ids of the tensors.

    Each vertex takes the nearest common dominator of its users (Cooper, Harvey and Kennedy 2001);
    on an acyclic graph in topological order one pass settles all.
    """
    tree = DominatorTree()
    users: dict[Node, dict[int, dict[int, bool]]] = {graph.root[0]: {graph.root[1]: {}}}
    marked = {node for node, _ in marks}
    for node in graph.nodes:
        if node not in users:
            continue
        op = op_name(node)
        outputs = sorted(users.pop(node).items())
        joined = len(outputs) > 1
        vertices = [
            tree.add(consumers, "" if joined else op, marks.get((node, number)))
            for number, consumers in outputs
        ]
        vertex = tree.add(dict.fromkeys(vertices, True), op) if joined else vertices[0]
        zeroed = zeroed_inputs(node)
        for place, (child, number) in enumerate(node.next_functions):
            if child is not None and (child.next_functions or child in marked):
                readers = users.setdefault(child, {}).setdefault(number, {})
                readers[vertex] = place not in zeroed or readers.get(vertex, False)
            elif child is not None and child in graph.leaf_of:
                tree.take(vertex, id(graph.leaf_of[child]))
    return tree

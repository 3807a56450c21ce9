"""Dominators of a directed graph: what every way to a node has to cross."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from torch import Tensor
from torch.autograd.graph import Node

from pytest_gradhealth.tensors.graph import Edge, Graph, zeroed_inputs
from pytest_gradhealth.tensors.marked import GIVEN, MarkedGraph


@dataclass(frozen=True)
class Chain:
    """The marks that dominate the first of them, in the order towards the loss.

    `ops[i]` names the unmarked operations between `marks[i]` and the next mark (or the loss).
    """

    marks: tuple[int, ...]
    ops: tuple[tuple[str, ...], ...]


class DominatorTree(MarkedGraph):
    """Immediate dominators of the tensors of one graph; holds integers and names, no tensors.

    A vertex is an output of a node or, where several outputs of a node are used, the node that
    joins them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._parent: list[int] = []
        self._depth: list[int] = []
        self._jump: list[int] = []
        self._op: list[str] = []

    def add(self, users: Mapping[int, bool], op: str, mark: int | None = None) -> int:
        """Add a vertex whose value the vertices `users` consume (none for the loss).

        They say whether it counts there, which it does not where zero multiplies it.
        """
        vertex = self._added(users, mark)
        above = reduce(self._meet, users, next(iter(users), vertex))
        self._parent.append(above)
        self._depth.append(self._depth[above] + 1 if users else 0)
        self._jump.append(self._jump_from(above) if users else vertex)
        self._op.append(op)
        return vertex

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


def _leaf(graph: Graph, node: Node | None, marked: Collection[Node]) -> Tensor | None:
    """The leaf that a node gathers for, or turns round for a layer; None if that is `marked`."""
    while node is not None and node not in marked:
        if graph.ops[node] not in ("T", "Transpose"):
            return graph.leaf_of.get(node)
        ((node, _),) = node.next_functions
    return None


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
        op = graph.ops[node]
        outputs = sorted(users.pop(node).items())
        joined = len(outputs) > 1
        vertices = [
            tree.add(consumers, "" if joined else op, marks.get((node, number)))
            for number, consumers in outputs
        ]
        vertex = tree.add(dict.fromkeys(vertices, True), op) if joined else vertices[0]
        zeroed = zeroed_inputs(node, op)
        for place, (child, number) in enumerate(node.next_functions):
            leaf = _leaf(graph, child, marked)
            if leaf is not None:
                tree.take(vertex, id(leaf))
            elif child is None:
                tree.take(vertex, GIVEN)
            elif child.next_functions or child in marked:
                readers = users.setdefault(child, {}).setdefault(number, {})
                readers[vertex] = place not in zeroed or readers.get(vertex, False)
    return tree

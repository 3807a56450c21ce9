"""Dominators of a directed graph: what every way to a node has to cross."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch.autograd.graph import Node

from pytest_gradhealth.tensors.graph import Edge, Graph, op_name


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
        self._children: list[list[int]] = []
        self._mark_at: dict[int, int] = {}
        self._vertex_of: dict[int, int] = {}

    def add(self, users: Sequence[int], op: str, mark: int | None = None) -> int:
        """Add a vertex whose value the vertices `users` consume (none for the loss)."""
        vertex = len(self._parent)
        above = users[0] if users else vertex
        for user in users[1:]:
            above = self._meet(above, user)
        self._parent.append(above)
        self._depth.append(self._depth[above] + 1 if users else 0)
        self._jump.append(self._jump_from(above) if users else vertex)
        self._op.append(op)
        self._children.append([])
        for user in users:
            self._children[user].append(vertex)
        if mark is not None:
            self._mark_at[vertex] = mark
            self._vertex_of[mark] = vertex
        return vertex

    @property
    def marks(self) -> Collection[int]:
        """The marks that the loss depends on."""
        return self._vertex_of.keys()

    def sources(self, wanted: Collection[int]) -> list[int]:
        """Return the wanted marks that depend on no other wanted mark, in ascending order."""
        depends = [False] * len(self._parent)
        found = []
        for vertex in range(len(self._parent) - 1, -1, -1):
            depends[vertex] = any(
                depends[child] or self._mark_at.get(child) in wanted
                for child in self._children[vertex]
            )
            mark = self._mark_at.get(vertex)
            if mark in wanted and mark is not None and not depends[vertex]:
                found.append(mark)
        return sorted(found)

    def climb(self, mark: int, wanted: Collection[int]) -> Iterator[tuple[int | None, str]]:
        """Yield what dominates `mark`, itself first: a wanted mark or None, and an operation."""
        vertex = self._vertex_of[mark]
        while True:
            here = self._mark_at.get(vertex)
            yield (here if here in wanted else None), self._op[vertex]
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


def dominators(graph: Graph, marks: Mapping[Edge, int]) -> DominatorTree:
    """Return the dominator tree of a graph; parameters are left out unless they are marked.

    Each vertex takes the nearest common dominator of its users (Cooper, Harvey and Kennedy 2001);
    on an acyclic graph in topological order one pass settles all.
    """
    tree = DominatorTree()
    users: dict[Node, dict[int, list[int]]] = {graph.root[0]: {graph.root[1]: []}}
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
        vertex = tree.add(vertices, op) if joined else vertices[0]
        for child, number in node.next_functions:
            if child is not None and (child.next_functions or child in marked):
                users.setdefault(child, {}).setdefault(number, []).append(vertex)
    return tree

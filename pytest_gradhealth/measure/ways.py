"""Which ways lead from an operation to the loss: through layers, or through another operation."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch.autograd.graph import Node

from pytest_gradhealth.tensors.graph import Graph


@dataclass(frozen=True)
class Ways:
    """The ways from the nodes of a graph to its loss.

    `points` are what layers have returned, and `returned` what the model has.
    """

    graph: Graph
    points: Collection[Node]
    returned: Collection[Node | None] = ()

    def all_through(self, start: Node, gate: Node) -> bool:
        """Whether all ways from a node to the loss go through another that depends on it.

        Where that leads on to layers, those that lead to the loss alone do not count.
        """
        last, onwards = self._places[gate], self.lead_on(gate)
        seen, stack = {(gate, False), (gate, True)}, [(start, False)]
        while stack:
            node, met = stack.pop()
            for reader in self._readers[node]:
                way = reader, met or reader in self.points
                if onwards and not (way[1] or self.lead_on(reader)):
                    continue
                if self._places[reader] < last:
                    return False
                if way not in seen:
                    seen.add(way)
                    stack.append(way)
        return True

    def lead_on(self, node: Node) -> bool:
        """Whether a layer has returned what was made of what a node makes, or the model that."""
        return node in self.returned or any(r in self._read for r in self._readers[node])

    @cached_property
    def _places(self) -> Mapping[Node, int]:
        """Where nodes are, from the loss on: whatever reads a node comes before it."""
        return {node: place for place, node in enumerate(self.graph.nodes)}

    @cached_property
    def _readers(self) -> Mapping[Node, Collection[Node]]:
        readers: dict[Node, list[Node]] = {node: [] for node in self.graph.nodes}
        for node in self.graph.nodes:
            for child, _ in node.next_functions:
                if child is not None:
                    readers[child].append(node)
        return readers

    @cached_property
    def _read(self) -> Collection[Node]:
        """The points, and all that they are made of."""
        found: set[Node] = {*self.points}
        for node in self.graph.nodes:
            if node in found:
                found.update(child for child, _ in node.next_functions if child is not None)
        return found

"""Which ways lead from an operation to the loss, against all ways counted out."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from torch.autograd.graph import Node

from pytest_gradhealth.measure.ways import Ways
from pytest_gradhealth.tensors.graph import Graph, walk


def at_random(seed: int) -> Graph:
    rng = random.Random(seed)
    values = [torch.ones((), requires_grad=True).exp()]
    for _ in range(9):
        values.append(rng.choice(values) * rng.choice(values))
    return walk(values[-1])


def all_ways(node: Node, graph: Graph) -> Iterator[tuple[Node, ...]]:
    """Every way from a node to the loss."""
    if node is graph.root[0]:
        yield (node,)
    for reader in graph.nodes:
        for child, _ in reader.next_functions:
            if child is node:
                yield from ((node, *way) for way in all_ways(reader, graph))


@pytest.mark.parametrize("seed", range(8))
def test_all_ways_through_a_node_are_counted_out(seed: int) -> None:
    graph = at_random(seed)
    points = {node for number, node in enumerate(graph.nodes) if number % 3 == 2}
    ways = Ways(graph, points)
    for start in graph.nodes:
        taken = [*all_ways(start, graph)]
        assert ways.lead_on(start) == any(not points.isdisjoint(way[1:]) for way in taken)
        assert Ways(graph, points, [start]).lead_on(start), "which the model returns"
        for gate in {node for way in taken for node in way} - {start}:
            counted = taken
            if ways.lead_on(gate):
                counted = [way for way in taken if not points.isdisjoint(way[1:])]
            assert ways.all_through(start, gate) == all(gate in way for way in counted)

"""What a loss only adds up: the errors of each example that a forward has made of several terms."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_gradhealth.tensors.dominators import DominatorTree
from pytest_gradhealth.tensors.graph import Edge, Graph
from pytest_gradhealth.tensors.marked import GIVEN

#: Operations that add their inputs up, or take them as they are.
_ADDING = {
    *("Add", "Alias", "Cat", "Clone", "Expand", "Index", "Mean", "Neg", "Permute", "Reshape"),
    *("Select", "Slice", "Squeeze", "Stack", "Sub", "Sum", "ToCopy", "Unsqueeze", "View"),
}
#: Operations that do so with one input, where the other one is a number.
_SCALING = {"Div", "Mul"}


def added_up(graph: Graph, tree: DominatorTree, marks: Mapping[Edge, int]) -> set[int]:
    """Return the marks, by edge, that several others are joined in on the way to a mere sum.

    The loss that is made of them is the same where a forward adds it up itself, and returns it as
    a number that is no mark: what comes in there are its terms. A stream that layers are added to
    is none.
    """
    found = set[int]()
    for edge, mark in _sum(graph, graph.root, marks)[1].items():
        joined, leaves = tree.made_of(mark, tree.marks)
        if len(joined) > 1 and not leaves - {GIVEN} and not _is_read(graph, edge, marks):
            found.add(mark)
    return found


def _sum(
    graph: Graph, start: Edge, marks: Mapping[Edge, int]
) -> tuple[list[Edge], dict[Edge, int]]:
    """What the value of an edge is a weighted sum of, up to marks; and these."""
    edges, found = [start], dict[Edge, int]()
    for edge in edges:
        if edge in marks and edge != start:
            found[edge] = marks[edge]
            continue
        node = edge[0]
        inputs = [(child, place) for child, place in node.next_functions if child is not None]
        op = graph.ops[node]
        alone = len(inputs) == 1 and (op == "Mul" or node.next_functions[0][0] is not None)
        if op in _ADDING or (op in _SCALING and alone):
            edges += [edge for edge in inputs if edge not in edges]
    return [edge for edge in edges if edge not in found], found


def _is_read(graph: Graph, start: Edge, marks: Mapping[Edge, int]) -> bool:
    """Whether layers read what an edge is the sum of, before all of it has been added up."""
    edges, _ = _sum(graph, start, marks)
    within, partial = {node for node, _ in edges}, {*edges[1:]}
    readers = (node for node in graph.nodes if node not in within)
    return any(edge in partial for node in readers for edge in node.next_functions)

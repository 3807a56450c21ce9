"""What a loss only adds up: the errors of each example that a forward has made of several terms."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from pytest_gradhealth.tensors.dominators import DominatorTree
from pytest_gradhealth.tensors.graph import Edge, Graph

#: Operations that add their inputs up, or take them as they are.
_ADDING = {
    *("Add", "Alias", "Cat", "Clone", "Expand", "Index", "Mean", "Neg", "Permute", "Reshape"),
    *("Select", "Slice", "Squeeze", "Stack", "Sub", "Sum", "ToCopy", "Unsqueeze", "View"),
}
#: Operations that do so with one input, where the other one is a number.
_SCALING = {"Div", "Mul"}


def added_up(
    loss: Tensor, graph: Graph, tree: DominatorTree, marks: Mapping[Edge, int]
) -> set[int]:
    """Return the marks, by edge, that several others are joined in on the way to a mere sum.

    The loss that is made of them is the same where a forward adds it up itself, and returns it as
    a number that is no mark: what comes in there are its terms. Layers are none, nor is a stream
    that layers are added to.
    """
    matrices = {id(leaf) for leaf in graph.leaves if leaf.dim() > 1}
    edges = {mark: edge for edge, mark in marks.items()}
    found = set[int]()
    waiting = tree.outermost(tree.marks)
    for mark in waiting:
        joined, leaves = tree.made_of(mark, tree.marks)
        if len(joined) < 2 or not matrices.isdisjoint(leaves):
            continue
        if _is_linear(loss, edges[mark]) and not _is_read(graph, edges[mark], marks):
            found.add(mark)
            waiting += tree.last_of(joined)
    return found


def _is_linear(loss: Tensor, edge: Edge) -> bool:
    """Whether what a loss makes of a tensor has the same slope whatever the tensor is."""
    try:
        (slope,) = torch.autograd.grad(loss, [GradientEdge(*edge)], create_graph=True)
    except RuntimeError:  # not every operation has a second derivative
        return False
    return not slope.requires_grad


def _sum(graph: Graph, start: Edge, marks: Mapping[Edge, int]) -> list[Edge]:
    """What the value of an edge is a weighted sum of, itself first, down to marks."""
    edges = [start]
    for edge in edges:
        node, op = edge[0], graph.ops[edge[0]]
        inputs = [(child, place) for child, place in node.next_functions if child is not None]
        alone = len(inputs) == 1 and (op == "Mul" or node.next_functions[0][0] is not None)
        if op in _ADDING or (op in _SCALING and alone):
            edges += [each for each in inputs if each not in edges and each not in marks]
    return edges


def _is_read(graph: Graph, start: Edge, marks: Mapping[Edge, int]) -> bool:
    """Whether layers read what an edge is the sum of, before all of it has been added up."""
    edges = _sum(graph, start, marks)
    within = {node for node, _ in edges}
    partial = {edge for edge in edges[1:] if edge[0].next_functions}
    readers = (node for node in graph.nodes if node not in within)
    return any(edge in partial for node in readers for edge in node.next_functions)

"""What operations with a weight were given, use after use: the states of a loop without layers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import Node

from pytest_gradhealth.tensors.graph import Graph

#: What one use has saved for the backward: a number for each place along the last dimension.
Saved = Sequence[Tensor]
#: All uses of leaves, by the ids of these, in the order of the forward.
Given = Mapping[int, Sequence[Saved]]


def given_to(graph: Graph, weights: Collection[int]) -> Given:
    """Return what the uses of some leaves, by their ids, were given.

    A use may get at a leaf through operations on leaves alone, as where one is transposed.
    """
    leaves = {id(leaf): node for node, leaf in graph.leaf_of.items() if id(leaf) in weights}
    return {leaf: [*_uses(graph, node)] for leaf, node in leaves.items()}


def _uses(graph: Graph, leaf: Node) -> Iterator[Saved]:
    alone, uses = {leaf}, []
    for node in reversed(graph.nodes):  # what leads to a node comes behind it
        inputs = [child for child, _ in node.next_functions if child is not None]
        if not alone.isdisjoint(inputs):
            uses.append(node)
            if alone.issuperset(child for child in inputs if child not in graph.leaf_of):
                alone.add(node)
    for node in sorted(uses, key=lambda node: node._sequence_nr()):
        if saved := [*_saved(node)]:
            yield saved


def _saved(node: Node) -> Iterator[Tensor]:
    for name in dir(node):
        value = getattr(node, name) if name.startswith("_saved_") else None
        if isinstance(value, Tensor) and value.dim() and value.is_floating_point():
            dtype = torch.float32 if value.device.type == "mps" else torch.float64
            rows = value.detach().reshape(-1, value.shape[-1]).to(dtype)
            yield torch.arange(1, len(rows) + 1, device=rows.device, dtype=dtype).cos() @ rows


def is_fed(ours: Given, theirs: Given) -> bool:
    """Whether what a first use was given is the same, at some places, and what comes later is not.

    A loop that goes on with data of its own begins with what it was handed.
    """
    for first, *later in _changes(ours, theirs, torch.isclose):
        for use in later:
            pairs = zip(use, first, strict=False)
            if any(now.shape == was.shape and bool((now & ~was).any()) for now, was in pairs):
                return True
    return False


def is_felt(ours: Given, theirs: Given) -> bool:
    """Whether any use was given something else."""
    uses = (use for uses in _changes(ours, theirs, torch.eq) for use in uses)
    return any(bool(changed.any()) for use in uses for changed in use)


def _changes(
    ours: Given, theirs: Given, same: Callable[[Tensor, Tensor], Tensor]
) -> Iterator[list[list[Tensor]]]:
    """Where the uses of each leaf were given something else, if there are as many."""
    for leaf, uses in ours.items():
        others = theirs.get(leaf, ())
        if uses and len(uses) == len(others):
            pairs = (zip(*pair, strict=False) for pair in zip(uses, others, strict=True))
            yield [[~same(a, b) for a, b in saved if a.shape == b.shape] for saved in pairs]

"""Where in a model a node of its graph is: the layer that returned it, or the one before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch.autograd.graph import Node

from pytest_gradhealth.measure.recorder import Key, Mark
from pytest_gradhealth.results.names import OUTPUT
from pytest_gradhealth.tensors.graph import Graph
from pytest_gradhealth.tensors.modules import Named

#: Operations that may lie between a layer and what is made of its output.
_REACH = 16


@dataclass(frozen=True)
class Place:
    """A recorded module output: the module's label, type and innermost type; or a parameter.

    `key` is that of the output, None of a parameter.
    """

    name: str
    type: str
    leaf: str
    key: Key | None = None


def places_of(marks: Iterable[Mark]) -> dict[Node, Place]:
    """The nodes that computed module outputs."""
    return {m.edge[0]: Place(m.name, m.type, m.leaf, m.key) for m in marks if m.edge is not None}


def parameter_places(named: Named, graph: Graph) -> dict[Node, Place]:
    """The nodes that parameters enter the graph by."""
    names = {id(parameter): name for name, (parameter, _) in named.items()}
    entered = ((node, names.get(id(leaf))) for node, leaf in graph.leaf_of.items())
    return {node: Place(name, "Parameter", "") for node, name in entered if name is not None}


def before(node: Node) -> Iterator[Node]:
    """The nodes that lead to another, nearest first, along the first input of each."""
    for _ in range(_REACH):
        children = _children(node)
        if not children:
            return
        node = next((child for child in children if child.next_functions), children[0])
        yield node


def layer_before(node: Node, places: Mapping[Node, Place]) -> Place:
    """The layer before an operation: a module, or a parameter where a function takes it."""
    near = node_before(node, places)
    return Place(OUTPUT, "", "") if near is None else places[near]


def node_before(node: Node, places: Mapping[Node, Place]) -> Node | None:
    """The node of the layer before an operation, None if none is near."""
    for near in before(node):
        if near in places:
            return near
        children = _children(near)
        within = [first for c in children if c not in places for first in _children(c)[:1]]
        for child in (*children, *within):
            if child in places and hasattr(child, "variable"):  # a parameter
                return child
    return None


def _children(node: Node) -> list[Node]:
    return [child for child, _ in node.next_functions if child is not None]

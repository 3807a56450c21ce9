"""The autograd graph behind an output."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

#: A tensor in the graph: the node that computes it and the number of the node's output.
Edge = tuple[Node, int]


def sequence_number() -> int:
    """Return the number that the next node of the autograd graph will get."""
    with torch.inference_mode(False), torch.enable_grad():  # a module may run without either
        probe = torch.zeros((), requires_grad=True).view(())
    assert probe.grad_fn is not None
    return probe.grad_fn._sequence_nr() + 1


def edge_of(tensor: Tensor) -> Edge:
    """Return where the gradient of a tensor that requires grad enters the graph."""
    node = tensor.grad_fn
    if node is not None:
        return node, tensor.output_nr
    edge = get_gradient_edge(tensor)
    return edge.node, edge.output_nr


@dataclass(frozen=True)
class Graph:
    """The nodes behind a loss in topological order, and the leaf tensors that they end in.

    `leaf_of` maps the nodes that gather a leaf's gradient to that leaf.
    """

    root: Edge
    nodes: tuple[Node, ...]
    leaf_of: Mapping[Node, Tensor]

    @property
    def leaves(self) -> Collection[Tensor]:
        """The leaf tensors."""
        return self.leaf_of.values()

    @cached_property
    def ops(self) -> Mapping[Node, str]:
        """The operation of each node."""
        return {node: op_name(node) for node in self.nodes}

    @property
    def hides_layers(self) -> bool:
        """Whether a re-entrant checkpoint is in it, which shows nothing of what it runs."""
        return "CheckpointFunction" in self.ops.values()

    def reaches_behind(self, number: int) -> bool:
        """Whether part of it was there before the node with this sequence number."""
        return any(n.next_functions and n._sequence_nr() < number for n in self.nodes)


def walk(loss: Tensor) -> Graph:
    """Return the graph of everything that the loss depends on."""
    root = edge_of(loss)
    order: list[Node] = []
    leaf_of: dict[Node, Tensor] = {}
    seen = {root[0]}
    stack = [(root[0], iter(root[0].next_functions))]
    while stack:
        node, inputs = stack[-1]
        for child, _ in inputs:
            if child is not None and child not in seen:
                seen.add(child)
                stack.append((child, iter(child.next_functions)))
                break
        else:
            stack.pop()
            order.append(node)
            if not node.next_functions and hasattr(node, "variable"):
                leaf_of[node] = node.variable
    order.reverse()
    return Graph(root, tuple(order), leaf_of)


def follow_on_each_other(nodes: Collection[Node]) -> bool:
    """Whether any of some nodes is computed from another of them."""
    oldest = min((node._sequence_nr() for node in nodes), default=0)
    for start in nodes:
        seen, waiting = {start}, [start]
        for node in waiting:
            inputs = {child for child, _ in node.next_functions if child is not None} - seen
            if not inputs.isdisjoint(nodes):
                return True
            seen |= inputs
            waiting += [child for child in inputs if child._sequence_nr() >= oldest]
    return False


def op_name(node: Node) -> str:
    """The operation whose backward a node is: "Sigmoid" for SigmoidBackward0."""
    name = _operation(node.name())
    if name == "Hardtanh" and not is_own(node):
        bounds = node._saved_min_val, node._saved_max_val  # type: ignore[attr-defined]
        return "Relu6" if bounds == (0, 6) else name
    return name


def is_own(node: Node) -> bool:
    """Whether a node is that of a function of the model's own, whatever it is called."""
    return hasattr(node, "_forward_cls")


@lru_cache(maxsize=1024)
def _operation(name: str) -> str:
    name = name.rpartition("::")[2]
    return name.partition("Backward")[0] or name


def zeroed_inputs(node: Node, op: str) -> Collection[int]:
    """The inputs of an operation, by place, that it multiplies by a number that is zero.

    One that nothing trains. Nothing on an accelerator is waited for, nothing is unpacked.
    """
    saved = _NUMBERS.get(op, {})
    return [place for name, place in saved.items() if _is_zero(node, name)]


#: By operation: what has to be zero for an input to count for nothing, and the place of the input.
_NUMBERS = {
    "Mul": {"other": 0, "self": 1},
    "Add": {"alpha": 1},
    "Sub": {"alpha": 1},
}


def _is_zero(node: Node, name: str) -> bool:
    raw = getattr(node, f"_raw_saved_{name}", None)
    if getattr(raw, "unpack_hook", None) is not None:
        return False
    number = getattr(node, f"_saved_{name}", None)
    if isinstance(number, Tensor):
        if number.dim() or number.requires_grad or number.device.type != "cpu":
            return False
        number = number.tolist()  # which no mode of torch takes part in: they get mere numbers
    return number == 0

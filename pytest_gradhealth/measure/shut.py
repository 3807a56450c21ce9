"""Which operations pass nothing on to what is behind them, whatever gradient comes to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from pytest_gradhealth.results.stop import Stop
from pytest_gradhealth.subject.passes import run_backward
from pytest_gradhealth.tensors.graph import Graph
from pytest_gradhealth.tensors.hooks import hooked

#: Seed of the gradients that operations are asked with.
SEED = 20100513
#: Inputs that get nothing but zeros of an operation, each with what is told of that.
Cuts = list[tuple[Node | None, Stop]]


def shut_by(
    loss: Tensor,
    graph: Graph,
    is_silent: Callable[[Any, Node], bool],
    described: Callable[[Node, Tensor], Stop],
) -> Mapping[Node, Cuts]:
    """Ask each operation alone, with a random gradient in place of what would come to it.

    Where the loss sends nothing back, that still tells what would let none through. Nothing is
    known of operations that cannot be asked.
    """
    found: dict[Node, Cuts] = {}
    generator = torch.Generator().manual_seed(SEED)

    def drawn(gradients: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(_like(gradient, generator) for gradient in gradients)

    def watch(node: Node) -> Any:
        def hook(grad_inputs: Sequence[Any], grad_outputs: Sequence[Any]) -> None:
            given = [g for g in grad_outputs if isinstance(g, Tensor)]
            inputs = [*zip((n for n, _ in node.next_functions), grad_inputs, strict=False)]
            passed = {child for child, g in inputs if not is_silent(g, node)}
            silent = {child for child, _ in inputs} - passed - {None}
            if given and silent:
                stop = described(node, given[0])
                found[node] = [(child, stop) for child in silent]

        return hook

    inner = [node for node in graph.nodes if node.next_functions]
    asked = (node.register_prehook(drawn) for node in inner)
    seen = (node.register_hook(watch(node)) for node in inner)
    with hooked(asked), hooked(seen), suppress(Exception):  # a backward that takes no other one
        run_backward(loss, keep=True)
        return found
    return {}


def _like(gradient: Any, generator: torch.Generator) -> Any:
    if not isinstance(gradient, Tensor) or gradient.layout != torch.strided or gradient.is_nested:
        return gradient
    return torch.randn(gradient.shape, generator=generator).to(gradient)


def reached_past(graph: Graph, shut: Mapping[Node, Cuts]) -> set[Node | None]:
    """The nodes that gradient may get to from the loss."""
    reached: set[Node | None] = {graph.root[0]}
    for node in graph.nodes:  # whatever leads to a node comes before it
        if node in reached:
            kept = {child for child, _ in shut.get(node, ())}
            reached.update(child for child, _ in node.next_functions if child not in kept)
    return reached

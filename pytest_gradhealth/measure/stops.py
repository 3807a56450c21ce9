"""Which operations keep all gradient from what is behind them, where there is none but zeros."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.graph import Node

from pytest_gradhealth.measure.asked import asked
from pytest_gradhealth.measure.calls import Calls
from pytest_gradhealth.measure.places import Place, layer_before, places_of
from pytest_gradhealth.measure.recorder import Recorder
from pytest_gradhealth.results.names import OUTPUT
from pytest_gradhealth.results.stop import Stop, StopKind
from pytest_gradhealth.subject.passes import Pass, run_backward
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.graph import Graph, is_own, op_name
from pytest_gradhealth.tensors.hooks import hooked
from pytest_gradhealth.tensors.norms import l2_norm

#: Up to so many times the last digit of a number is rounding; of few digits, a part as small is.
ROUNDING = 32
#: Operations that are zero where another factor or a mask is, which something else may have made.
_PASSIVE = frozenset({"Mul", "Where", "MaskedFill", "Bmm", "Mm", "Div", "Index", "Gather"})
#: Inputs that get nothing but zeros of an operation, each with what is told of that.
_Cuts = list[tuple[Node | None, Stop]]


@asked(())
def stops(subject: Subject, names: Collection[str], *, seed: int) -> tuple[Stop, ...]:
    """Return the operations that stop the gradient of some parameters, the nearest to the loss.

    And those that return the same whatever comes in.
    """
    run, recorder, calls = Pass(subject, seed), Recorder(subject.model), Calls(subject.model)
    recorder.gradients = "ignored"
    with recorder.attached(), calls.attached():
        loss = run.run()
        graph = run.graph(loss)
        cuts = _cuts(run, loss, graph, calls, places_of(recorder.marks))
    levels = dict.fromkeys(stop for node in graph.nodes for _, stop in cuts.get(node, ()))
    found: dict[Stop, list[str]] = {stop: [] for stop in levels if stop.levels}
    parameters = {id(p): n for n, p in subject.model.named_parameters() if n in names}
    for leaf, tensor in graph.leaf_of.items():
        name = parameters.get(id(tensor))
        if name is not None and (stop := _nearest(leaf, graph, cuts)):
            found.setdefault(stop, []).append(name)
    return tuple(replace(stop, parameters=tuple(sorted(cut))) for stop, cut in found.items())


def _cuts(
    run: Pass, loss: Tensor, graph: Graph, calls: Calls, places: Mapping[Node, Place]
) -> Mapping[Node, _Cuts]:
    """What each operation that gets gradient keeps all of it from, in the backward."""
    found: dict[Node, _Cuts] = {}
    came: dict[Node | None, list[float]] = {}  # sizes of what has come to a node, way by way

    def watch(node: Node) -> Any:
        def hook(grad_inputs: Sequence[Any], grad_outputs: Sequence[Any]) -> None:
            given = [g for g in grad_outputs if isinstance(g, Tensor)]
            if len(came.get(node, ())) > 1 and all(_is_rounding(g, came[node]) for g in given):
                stop = _described(node, calls, places, given[0], "cancels")
                found[node] = [(node, replace(stop, elements=None))]
            if not any(bool(g.any()) for g in given):
                return
            inputs = [*zip((n for n, _ in node.next_functions), grad_inputs, strict=False)]
            silent = {child: g for child, g in inputs if _is_silent(g, node)}
            for child, g in inputs:
                if g is not None and child not in silent:
                    came.setdefault(child, []).append(float(l2_norm(g)))
            if silent or op_name(node) in _LEVELLED:
                kind = _kind(node, grad_outputs, silent)
                stop = _described(node, calls, places, given[0], kind)
                # What a levelled input gets is zero but for rounding, if it wants gradient at all.
                children = [node.next_functions[0][0], None] if stop.levels else silent
                found.setdefault(node, []).extend((child, stop) for child in children)

        return hook

    inner = (node for node in graph.nodes if node.next_functions)
    with hooked(node.register_hook(watch(node)) for node in inner), run.own_gradients():
        run_backward(loss, keep=True)  # or nothing could be read of an operation
    return found


def _described(
    node: Node, calls: Calls, places: Mapping[Node, Place], gradient: Tensor, kind: StopKind
) -> Stop:
    op, place = op_name(node), places.get(node)
    at: Literal["", "behind", "in"] = ""
    if place is None or not (kind in ("rounding", "cancels") or _is_its(op, place)):
        at, place = "behind", layer_before(node, places)
        if place.name == OUTPUT and (call := calls.owner(node)):
            at, place = "in", Place(call.name, call.type, "")
    elements = _elements(node, op, gradient)
    return Stop(op, place.name, place.type, at, kind, elements)


def _is_rounding(gradient: Tensor, parts: Sequence[float]) -> bool:
    """Whether a sum is next to nothing beside its parts."""
    share = min(ROUNDING * torch.finfo(gradient.dtype).eps, 1 / ROUNDING)
    return float(l2_norm(gradient)) < share * max(parts)


def _is_silent(gradient: Any, node: Node) -> bool:
    """Whether an operation passes nothing on to an input: zeros or, of the model's own, None."""
    if isinstance(gradient, Tensor):
        return not bool(gradient.any())
    return gradient is None and is_own(node)


def _kind(node: Node, gradients: Sequence[Any], silent: Mapping[Node | None, Any]) -> StopKind:
    """What is special about a stop: a function of the model's own, or too small a gradient."""
    if is_own(node):
        return "none" if all(gradient is None for gradient in silent.values()) else "zeros"
    return "rounding" if silent and _passes_more(node, gradients, silent) else ""


def _passes_more(node: Any, gradients: Sequence[Any], silent: Collection[Node | None]) -> bool:
    """Whether an operation would pass on what it gets, were that not so small for its format."""
    size = max(float(g.abs().max()) for g in gradients if isinstance(g, Tensor) and g.numel())
    if size >= 1:
        return False
    try:
        larger = node(*(g / size if isinstance(g, Tensor) else g for g in gradients))
    except RuntimeError:  # what it has saved may be had only once
        return False
    passed = larger if isinstance(larger, tuple) else (larger,)
    pairs = zip(node.next_functions, passed, strict=False)
    return any(child in silent and g is not None and bool(g.any()) for (child, _), g in pairs)


def _is_its(op: str, place: Place) -> bool:
    """Whether an operation is all that a module does: the Relu of an nn.ReLU."""
    kind = re.sub(r"[1-3]d$", "", place.leaf.lower())
    return kind != "" and op.lower().endswith(kind)


def _elements(node: Any, op: str, gradient: Tensor) -> int | None:
    """How many elements an operation levels together; of a rectifier, those that it passes on."""
    if is_own(node):
        return None
    if op in _LEVELLED:
        return int(_LEVELLED[op](node, gradient))
    if op == "Relu" and node._raw_saved_result.unpack_hook is None:  # or it runs code of others
        return int((node._saved_result > 0).sum())
    return None


def _softened(node: Any, gradient: Tensor) -> int:
    dim = node._saved_dim - (2**64 if node._saved_dim >= 2**63 else 0)
    return gradient.shape[dim] if gradient.dim() else 1


#: Operations that make elements of one another, and of one alone always the same: of how many.
_LEVELLED: dict[str, Callable[[Any, Tensor], int]] = {
    "Softmax": _softened,
    "LogSoftmax": _softened,
    "NativeLayerNorm": lambda node, _: math.prod(node._saved_normalized_shape),
    "NativeGroupNorm": lambda node, _: node._saved_C * node._saved_HxW // node._saved_group,
}


def _nearest(leaf: Node, graph: Graph, cuts: Mapping[Node, _Cuts]) -> Stop | None:
    """The operation that stops what would come to a leaf, the first from the loss.

    Gradients that cancel only where nothing else does, and a product with zeros last: what is zero
    may be so for the same reason.
    """
    leads: set[Node | None] = {leaf}
    for node in reversed(graph.nodes):  # whatever leads to a node comes before it
        if any(child in leads for child, _ in node.next_functions):
            leads.add(node)
    every = (cut for node in graph.nodes for cut in cuts.get(node, ()))
    found = [stop for child, stop in every if child in leads]
    cancelled = [stop for stop in found if stop.kind == "cancels"]
    active = [stop for stop in found if stop.op not in _PASSIVE and stop not in cancelled]
    return (*active, *cancelled, *found, None)[0]

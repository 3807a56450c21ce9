"""Which operations keep all gradient from what is behind them, where there is none but zeros."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from pytest_gradhealth.measure.asked import asked
from pytest_gradhealth.measure.calls import Call, Calls
from pytest_gradhealth.measure.cancelled import Ways, is_rounding_of
from pytest_gradhealth.measure.left_out import shutting
from pytest_gradhealth.measure.places import Place, layer_before, node_before, places_of
from pytest_gradhealth.measure.recorder import Recorder, recorded_modules
from pytest_gradhealth.measure.shut import Cuts, reached_past, shut_by
from pytest_gradhealth.results.activation_functions import FUNCTIONAL, NAMES
from pytest_gradhealth.results.names import OUTPUT, module_of
from pytest_gradhealth.results.stop import Stop, StopKind
from pytest_gradhealth.subject.passes import Pass, run_backward
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.graph import Graph, is_own, op_name
from pytest_gradhealth.tensors.hooks import hooked
from pytest_gradhealth.tensors.storage import address_of

#: Operations that are zero where another factor or a mask is, which something else may have made.
_PRODUCTS = frozenset({"Mul", "Prod", "Where", "MaskedFill"})
_PASSIVE = _PRODUCTS | {"Bmm", "Mm", "Div", "Index", "Gather", "Addmm", "Baddbmm", "Convolution"}
#: Layers that are nothing but a product.
_DROPPING = frozenset({"dropout", "alphadropout", "featurealphadropout"})
#: Operations whose results sum up to the same whatever comes in.
_SUMMING_UP = frozenset({"NativeBatchNorm", "CudnnBatchNorm", "NativeLayerNorm", "NativeGroupNorm"})
_SUMMING_UP |= {"Softmax"}
#: Operations without a slope where they get zeros, or numbers that are equal, of something else.
_AT_ZERO = frozenset({"Abs", "Angle", "Atan2", "Cdist", "LinalgVectorNorm", "Norm", "Pow"})
_AT_ZERO |= {"Var", "Std", "MseLoss", "SmoothL1Loss", "HuberLoss"}


@asked(())
def stops(subject: Subject, names: Collection[str], *, seed: int) -> tuple[Stop, ...]:
    """Return the operations that stop the gradient of some parameters, the nearest to the loss.

    And those that return the same whatever comes in.
    """
    run, recorder, calls = Pass(subject, seed), Recorder(subject.model), _Calls(subject.model)
    recorder.gradients = "ignored"
    with recorder.attached(), calls.attached():
        loss = run.run()
        graph = run.graph(loss)
        weightless = _with_zero_weights(subject.model)
        seen = _Seen(subject.model, graph, calls, places_of(recorder.marks), weightless)
        with run.own_gradients():
            _cut(loss, seen)
            seen.shut = shut_by(loss, graph, _is_silent, partial(_described, seen))
    levels = dict.fromkeys(stop for node in graph.nodes for _, stop in seen.cuts.get(node, ()))
    found: dict[Stop, list[str]] = {stop: [] for stop in levels if stop.levels}
    parameters = {id(p): n for n, p in subject.model.named_parameters() if n in names}
    open_to = reached_past(graph, seen.shut)
    for leaf, tensor in graph.leaf_of.items():
        name = parameters.get(id(tensor))
        if name is not None and (stop := _stop_of(leaf, name, leaf not in open_to, seen)):
            found.setdefault(stop, []).append(name)
    return tuple(replace(stop, parameters=tuple(sorted(cut))) for stop, cut in found.items())


@dataclass
class _Calls(Calls):
    """Notes as well which modules return the same for all examples."""

    alike: set[str] = field(default_factory=set)

    def ended(self, call: Call, _: nn.Module, outputs: Any) -> None:
        out = outputs if isinstance(outputs, Tensor) else torch.empty(0)
        if out.dim() > 1 and len(out) > 1 and bool((out == out[:1]).all()):
            self.alike.add(call.name)


@dataclass
class _Seen:
    """A graph, where its nodes are, and what was seen to stop in two backwards.

    `cuts` is what each operation keeps all of the loss's gradient from, `shut` what it would keep
    any gradient from.
    """

    model: nn.Module
    graph: Graph
    calls: _Calls
    places: Mapping[Node, Place]
    weightless: frozenset[str]
    cuts: dict[Node, Cuts] = field(default_factory=dict)
    shut: Mapping[Node, Cuts] = field(default_factory=dict)
    _past: dict[Stop, set[Node | None]] = field(default_factory=dict)

    def past(self, stop: Stop) -> set[Node | None]:
        """What could be reached from the loss if one layer or function alone were shut."""
        if stop not in self._past:
            own = {n: [cut for cut in cuts if cut[1] == stop] for n, cuts in self.shut.items()}
            self._past[stop] = reached_past(self.graph, own)
        return self._past[stop]


def _cut(loss: Tensor, seen: _Seen) -> None:
    """Note what each operation that gets gradient keeps all of it from, in the backward."""
    found, ways = seen.cuts, Ways()

    def cancels(origin: Node, gradient: Tensor) -> Stop:
        return replace(_described(seen, origin, gradient, "cancels"), elements=None)

    def watch(node: Node) -> Any:
        def hook(grad_inputs: Sequence[Any], grad_outputs: Sequence[Any]) -> None:
            given = [g for g in grad_outputs if isinstance(g, Tensor)]
            if ways.cancel(node, given):
                found[node] = [(node, cancels(node, given[0]))]
            if not any(bool(g.any()) for g in given):
                return
            inputs = [*zip((n for n, _ in node.next_functions), grad_inputs, strict=False)]
            silent = {child: g for child, g in inputs if _is_silent(g, node)}
            if op_name(node) in _SUMMING_UP and is_rounding_of(node, grad_inputs, grad_outputs):
                even = _described(seen, node, given[0], "even")
                found.setdefault(node, []).append((node.next_functions[0][0], even))
                silent.pop(node.next_functions[0][0], None)
            passed = [(n, g) for n, g in inputs if n and g is not None and n not in silent]
            for child, origin in ways.went(node, passed):
                silent.pop(child, None)
                found.setdefault(node, []).append((child, cancels(origin, given[0])))
            if silent or op_name(node) in _LEVELLED:
                stop = _described(seen, node, given[0], _own_kind(node, silent))
                # What a levelled input gets is zero but for rounding, if it wants gradient at all.
                children = [node.next_functions[0][0], None] if stop.levels else silent
                closed = is_own(node) or stop.levels
                rounded = set() if closed else _rounded(node, grad_outputs, silent)
                small = _described(seen, node, given[0], "rounding") if rounded else stop
                cuts = [(child, small if child in rounded else stop) for child in children]
                found.setdefault(node, []).extend(cuts)

        return hook

    inner = (node for node in seen.graph.nodes if node.next_functions)
    with hooked(node.register_hook(watch(node)) for node in inner):
        run_backward(loss, keep=True)  # or nothing could be read of an operation


def _described(seen: _Seen, node: Node, gradient: Tensor, kind: StopKind = "") -> Stop:
    op, places = op_name(node), seen.places
    place = places.get(node)
    if not kind and place is not None and place.name in seen.weightless:
        return Stop(op, place.name, place.type, kind="weights")
    at: Literal["", "behind", "in"] = ""
    if place is None or not (kind in ("rounding", "cancels") or _is_its(op, place)):
        at, place = "behind", layer_before(node, places)
        if place.name == OUTPUT and (call := seen.calls.owner(node)):
            at, place = "in", Place(call.name, call.type, "")
    elements = _elements(node, op, gradient)
    return Stop(op, place.name, place.type, at, kind, elements, zeros=_zeros_of(node, seen))


def _zeros_of(node: Node, seen: _Seen) -> str:
    """What a product has its zeros of: the name of a tensor of the model, "0" for one number."""
    if op_name(node) != "Mul":
        return ""
    for factor, _ in shutting(node):
        for name, tensor in (*seen.model.named_buffers(), *seen.model.named_parameters()):
            if address_of(tensor) == address_of(factor) and not bool(tensor.any()):
                return name
        if factor.numel() == 1:
            return "0"
    return ""


def _with_zero_weights(model: nn.Module) -> frozenset[str]:
    """The layers that multiply by nothing but zeros."""
    own = ((name, dict(m.named_parameters(recurse=False))) for name, m in recorded_modules(model))
    weights = ((name, parameters["weight"]) for name, parameters in own if "weight" in parameters)
    return frozenset(name for name, weight in weights if weight.numel() and not bool(weight.any()))


def _is_silent(gradient: Any, node: Node) -> bool:
    """Whether an operation passes nothing on to an input: zeros or, of the model's own, None."""
    if isinstance(gradient, Tensor):
        return not bool(gradient.any())
    return gradient is None and is_own(node)


def _own_kind(node: Node, silent: Mapping[Node | None, Any]) -> StopKind:
    """How a function of the model's own stops the gradient, "" for any other."""
    if not is_own(node):
        return ""
    return "none" if all(gradient is None for gradient in silent.values()) else "zeros"


def _rounded(
    node: Any, gradients: Sequence[Any], silent: Mapping[Node | None, Any]
) -> set[Node | None]:
    """The silent inputs that an operation would pass on to, were what it gets not so small.

    Made larger by a power of two, which rounds nothing: what cancels goes on to cancel.
    """
    size = max(float(g.abs().max()) for g in gradients if isinstance(g, Tensor) and g.numel())
    if size >= 1:
        return set()
    unit = 2.0 ** math.frexp(size)[1]
    try:
        larger = node(*(g / unit if isinstance(g, Tensor) else g for g in gradients))
        passed = larger if isinstance(larger, tuple) else (larger,)
        pairs = zip(node.next_functions, passed, strict=False)
        known = ((child, g) for (child, _), g in pairs if child in silent and g is not None)
        # A node leaves it to the engine to sum up what was broadcast, as a bias is.
        return {child for child, g in known if bool(g.sum_to_size(silent[child].shape).any())}
    except RuntimeError:  # what it has saved may be had only once
        return set()


def _is_its(op: str, place: Place) -> bool:
    """Whether an operation is all that a module does: the Relu of an nn.ReLU.

    That of an activation may go by another name: nn.Hardtanh(0, 6) is a Relu6.
    """
    kind = re.sub(r"[1-3]d$", "", place.leaf.lower())
    named = kind != "" and (op.lower().endswith(kind) or (op == "Mul" and kind in _DROPPING))
    return named or (op in FUNCTIONAL and place.leaf in NAMES)


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


def _stop_of(leaf: Node, name: str, shut_off: bool, seen: _Seen) -> Stop | None:
    """The operation that stops what would come to a leaf, the first from the loss.

    Then what would stop anything that came, and what makes the examples alike that the leaf's layer
    gets. Gradients that cancel only where nothing else does, and a product with zeros last: what is
    zero may be so for the same reason.
    """
    leads = _leading_to(leaf, seen.graph)
    found = [*_of(seen.cuts, seen.graph, leads)]
    caused = [cut for cut in found if cut[1].kind == "cancels" or cut[1].op in _AT_ZERO]
    shut = [*_of(seen.shut, seen.graph, leads)] if shut_off else []
    alike = _making_alike(name, seen)
    alone = [cut for cut in shut if leaf not in seen.past(cut[1])]
    products = [cut for cut in alone if cut[1].op in _PRODUCTS]
    own, before = ([cut for cut in cuts if _is_active(cut[1])] for cuts in (alone, alike))
    active = [cut for cut in found if _is_active(cut[1])]
    node, stop = (*active, *own, *products, *before, *caused, *found, (None, None))[0]
    near = node_before(node, seen.places) if node else None
    behind = seen.shut.get(near, ()) if near else ()
    return next((weights for _, weights in behind if weights.kind == "weights"), stop)


def _leading_to(leaf: Node, graph: Graph) -> set[Node | None]:
    leads: set[Node | None] = {leaf}
    for node in reversed(graph.nodes):  # whatever leads to a node comes before it
        if any(child in leads for child, _ in node.next_functions):
            leads.add(node)
    return leads


def _of(
    cuts: Mapping[Node, Cuts], graph: Graph, inputs: Collection[Node | None]
) -> Iterator[tuple[Node, Stop]]:
    """What keeps gradient from some inputs, the nearest to the loss first."""
    return (
        (node, stop)
        for node in graph.nodes
        for child, stop in cuts.get(node, ())
        if child in inputs
    )


def _making_alike(name: str, seen: _Seen) -> list[tuple[Node, Stop]]:
    """What is shut before a parameter's module, where that returns the same for all examples."""
    module = module_of(name)
    if module not in seen.calls.alike:
        return []
    behind: set[Node | None] = {n for n, place in seen.places.items() if place.name == module}
    for node in seen.graph.nodes:
        if node in behind:
            behind.update(child for child, _ in node.next_functions)
    return [*_of(seen.shut, seen.graph, behind)]


def _is_active(stop: Stop) -> bool:
    """Whether it is of an operation's own making that it lets nothing through."""
    if stop.kind or stop.levels:
        return stop.kind != "cancels"
    return stop.op not in _PASSIVE and stop.op not in _AT_ZERO

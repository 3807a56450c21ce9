"""Finds the module that produced the first NaN or infinity, by running the batch once more.

Only called when something non-finite was seen; it may look at every tensor.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node

from pytest_gradhealth.distributed.team import anywhere
from pytest_gradhealth.measure.calls import Call, Calls
from pytest_gradhealth.measure.operations import During, Operations
from pytest_gradhealth.measure.recorder import recorded_modules
from pytest_gradhealth.results.names import LOSS
from pytest_gradhealth.results.non_finite import NonFinite
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.graph import op_name
from pytest_gradhealth.tensors.hooks import hooked
from pytest_gradhealth.tensors.modules import waits_for_others
from pytest_gradhealth.tensors.norms import kind_of, worst_in
from pytest_gradhealth.tensors.trees import tensors


def first_non_finite(subject: Subject, *, seed: int) -> NonFinite | None:
    """Return where the first non-finite value comes up under `seed`, None if none does.

    In the forward and the loss where the loss is not finite, else in the backward.
    """
    if not waits_for_others(subject.model):
        with suppress(Exception):  # what no mode can look into
            return _first(_run(subject, seed, closely=True))
    return _first(_run(subject, seed, closely=False))


def _first(watched: _Watched) -> NonFinite | None:
    value = kind_of(watched.loss)
    found = _in_forward(watched, value) if value else None
    if anywhere(watched.run.subject.model, found is not None):
        return found
    return _first_in_backward(watched) or watched.trace.culprit


@dataclass(frozen=True)
class _Watched:
    """A forward that was watched, with every operation of it where that can be."""

    run: Pass
    trace: _Trace
    loss: Tensor
    operations: Operations | None


def _run(subject: Subject, seed: int, *, closely: bool) -> _Watched:
    run, trace = Pass(subject, seed), _Trace(subject.model)
    operations = Operations(trace.now) if closely else None
    if operations is not None:
        operations.hand("targets", run.targets)
    with trace.attached(), operations or nullcontext():
        loss = run.run()
    return _Watched(run, trace, loss, operations)


def _in_forward(watched: _Watched, value: str) -> NonFinite:
    """What made a loss NaN or infinite: a parameter or a target that is so, or an operation."""
    culprit = watched.trace.culprit
    blamed = culprit or watched.trace.suspect
    origin = watched.operations.origin(watched.loss) if watched.operations else None
    if origin is not None and origin.parameter:
        return replace(origin, value=value)
    if origin is not None and not origin.taken:
        return origin
    if blamed is not None:
        seen = origin is not None and origin.layer == blamed.layer
        given = _bad_tensor(watched, blamed, {"nan"} if seen else {"nan", "inf"})
        if given:
            return replace(blamed, parameter=given)
    # What only mixes or passes on infinity has it of a module that did what no mode can see.
    if origin is not None and (culprit is None or culprit.layer == origin.layer):
        return origin
    if blamed is not None:
        return blamed
    taken = value if watched.operations else ""  # nothing that was seen has made it
    return NonFinite("loss", LOSS, "", value, parameter=_bad_targets(watched), taken=taken)


def _bad_tensor(watched: _Watched, found: NonFinite, kinds: Collection[str]) -> str:
    """Name of a parameter of the module that is not finite, or of a buffer of some kinds, or "".

    A buffer may well hold infinity, as a mask does.
    """
    module = dict(recorded_modules(watched.run.subject.model)).get(found.layer, nn.Module())
    bad = [name for name, own in module.named_parameters(recurse=False) if kind_of(own)]
    bad += [n for n, own in module.named_buffers(recurse=False) if kind_of(own) in kinds]
    return (*bad, "")[0]


def _bad_targets(watched: _Watched) -> str:
    return "targets" if worst_in(watched.run.targets) else ""


@dataclass
class _Trace(Calls):
    """Watches a forward: who is running, and who first turns finite inputs into something else."""

    culprit: NonFinite | None = None
    suspect: NonFinite | None = None
    backward: bool = False

    def now(self) -> tuple[During, str, str]:
        """What is going on: in the forward with the innermost module that runs."""
        if self.backward:
            return "backward", LOSS, ""
        name, kind = self.innermost()
        return ("forward", name, kind) if name else ("loss", LOSS, "")

    def begun(self, given: Any) -> None:
        # A mask of -inf is a healthy input; NaN and +inf come from the caller's own code.
        value = worst_in(given)
        if value in ("nan", "inf") and self.running and self.culprit is None:
            self.culprit = self.suspect or NonFinite("forward", *self.innermost(), value)

    def ended(self, call: Call, _: nn.Module, outputs: Any) -> None:
        value = worst_in(outputs)
        if not value or self.culprit is not None:
            return
        found = NonFinite("forward", call.name, call.type, value)
        if value == "-inf":
            self.suspect = self.suspect or found
        else:
            self.culprit = self.suspect or found


def _first_in_backward(watched: _Watched) -> NonFinite | None:
    run, trace = watched.run, watched.trace
    graph = run.graph(watched.loss)
    found: list[NonFinite] = []
    trace.backward = True

    def watch(node: Node) -> Any:
        def hook(grad_inputs: Any, grad_outputs: Any) -> None:
            value = worst_in(grad_inputs)
            if value and not found and not worst_in(grad_outputs):
                owner = trace.owner(node)
                name, kind = (owner.name, owner.type) if owner else (LOSS, "")
                bad = NonFinite("backward", name, kind, value, op=op_name(node))
                made = next(g for g in tensors(grad_inputs) if kind_of(g))
                found.append(_with_origin(bad, made, watched))

        return hook

    hooks = hooked(node.register_hook(watch(node)) for node in graph.nodes)
    with hooks, run.own_gradients(), watched.operations or nullcontext():
        run.backward(watched.loss)
    return found[0] if found else None


def _with_origin(bad: NonFinite, gradient: Tensor, watched: _Watched) -> NonFinite:
    """What is known of the operation that made it: one of the backward, or one of the forward."""
    operations = watched.operations
    if operations is None or not operations.made(gradient):
        return bad
    origin = operations.origin(gradient)
    if origin is None:
        return bad
    here = {name: getattr(bad, name) for name in ("during", "layer", "type", "value", "op")}
    dropped = origin.during != "backward"
    return replace(origin, **here, within=origin.op, made=origin.value, dropped=dropped)

"""Finds the module that produced the first NaN or infinity, by running the batch once more.

Only called when something non-finite was seen; it may look at every tensor.
"""

from __future__ import annotations

from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node

from pytest_gradhealth.distributed.team import anywhere
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.measure.calls import Call, Calls
from pytest_gradhealth.measure.operations import Operations
from pytest_gradhealth.results.names import LOSS
from pytest_gradhealth.results.profile import NonFinite
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.graph import op_name
from pytest_gradhealth.tensors.hooks import hooked
from pytest_gradhealth.tensors.modules import waits_for_others
from pytest_gradhealth.tensors.norms import kind_of, worst_in


def first_non_finite(subject: Subject, *, seed: int) -> NonFinite | None:
    """Return where the first non-finite value comes up under `seed`, None if none does.

    In the forward and the loss where the loss is not finite, else in the backward.
    """
    run, trace, loss, origin = _traced(subject, seed)
    value = kind_of(loss)
    found = _in_forward(run, trace, origin, value) if value else None
    if anywhere(subject.model, found is not None):
        return found
    return _first_in_backward(run, loss, trace) or trace.culprit


def _traced(subject: Subject, seed: int) -> tuple[Pass, _Trace, Tensor, NonFinite | None]:
    """A forward that is watched, with every operation of it where that can be."""
    if not waits_for_others(subject.model):
        with suppress(ProbeError, RuntimeError, TypeError):  # what no mode can look into
            return _watched(subject, seed, closely=True)
    return _watched(subject, seed, closely=False)


def _watched(
    subject: Subject, seed: int, *, closely: bool
) -> tuple[Pass, _Trace, Tensor, NonFinite | None]:
    run, trace = Pass(subject, seed), _Trace(subject.model)
    operations = Operations(trace.innermost)
    with trace.attached(), operations if closely else nullcontext():
        loss = run.run()
    return run, trace, loss, operations.origin(loss)


def _in_forward(run: Pass, trace: _Trace, origin: NonFinite | None, value: str) -> NonFinite:
    """What made a loss NaN or infinite: a parameter or a target that is so, or an operation."""
    culprit = trace.culprit
    blamed = culprit or trace.suspect
    if blamed is not None and blamed.parameter:
        return blamed
    # What only mixes or passes on infinity has it of a module that did what no mode can see.
    if origin is not None and (
        not origin.taken or culprit is None or culprit.layer == origin.layer
    ):
        return origin
    if blamed is not None:
        return blamed
    return NonFinite("loss", LOSS, "", value, parameter="targets" if worst_in(run.targets) else "")


@dataclass
class _Trace(Calls):
    """Watches a forward: who is running, and who first turns finite inputs into something else."""

    culprit: NonFinite | None = None
    suspect: NonFinite | None = None

    def begun(self, given: Any) -> None:
        # A mask of -inf is a healthy input; NaN and +inf come from the caller's own code.
        value = worst_in(given)
        if value in ("nan", "inf") and self.running and self.culprit is None:
            self.culprit = self.suspect or NonFinite("forward", *self.innermost(), value)

    def ended(self, call: Call, module: nn.Module, outputs: Any) -> None:
        value = worst_in(outputs)
        if not value or self.culprit is not None:
            return
        found = NonFinite("forward", call.name, call.type, value, parameter=_bad_parameter(module))
        if value == "-inf":
            self.suspect = self.suspect or found
        else:
            self.culprit = self.suspect or found


def _first_in_backward(run: Pass, loss: Tensor, trace: _Trace) -> NonFinite | None:
    graph = run.graph(loss)
    found: list[NonFinite] = []

    def watch(node: Node) -> Any:
        def hook(grad_inputs: Any, grad_outputs: Any) -> None:
            value = worst_in(grad_inputs)
            if value and not found and not worst_in(grad_outputs):
                owner = trace.owner(node)
                name, kind = (owner.name, owner.type) if owner else (LOSS, "")
                found.append(NonFinite("backward", name, kind, value, op=op_name(node)))

        return hook

    with hooked(node.register_hook(watch(node)) for node in graph.nodes), run.own_gradients():
        run.backward(loss)
    return found[0] if found else None


def _bad_parameter(module: nn.Module) -> str:
    """Name of a module's own parameter that is itself not finite, "" if there is none."""
    for name, parameter in module.named_parameters(recurse=False):
        if kind_of(parameter):
            return name
    return ""

"""Finds the module that produced the first NaN or infinity, by running the batch once more.

Only called when something non-finite was seen; it may look at every tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node

from pytest_gradhealth.distributed.team import anywhere
from pytest_gradhealth.measure.recorder import recorded_modules
from pytest_gradhealth.results.profile import NonFinite
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.graph import op_name, sequence_number
from pytest_gradhealth.tensors.modules import class_name
from pytest_gradhealth.tensors.norms import l2_norm
from pytest_gradhealth.tensors.trees import tensors
from pytest_gradhealth.tensors.unwrap import outside_transforms, packed, unwrapped


def first_non_finite(subject: Subject, *, seed: int) -> NonFinite | None:
    """Return where the first non-finite value comes up under `seed`, None if none does."""
    run = Pass(subject, seed)
    trace = _Trace(subject.model)
    with trace.attached():
        loss = run.run()
    value = _kind(loss)
    found = trace.culprit
    if found is None and value:
        found = trace.suspect or NonFinite("loss", "(loss)", "", value)
    if anywhere(subject.model, found is not None):
        return found
    return _first_in_backward(run, loss, trace)


@dataclass
class _Call:
    """One call of a module, with the autograd sequence numbers at which it began and ended."""

    name: str
    type: str
    begin: int
    end: float = math.inf


@dataclass
class _Trace:
    """Watches a forward: who is running, and who first turns finite inputs into something else."""

    model: nn.Module
    culprit: NonFinite | None = None
    suspect: NonFinite | None = None
    calls: list[_Call] = field(default_factory=list)
    _running: list[_Call] = field(default_factory=list)

    @contextmanager
    def attached(self) -> Iterator[None]:
        handles: list[Any] = []
        try:
            for name, module in recorded_modules(self.model):
                handles.append(
                    module.register_forward_pre_hook(self._before(name), with_kwargs=True)
                )
                handles.append(module.register_forward_hook(self._after))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def owner(self, node: Node) -> _Call | None:
        """The innermost call in which a node of the graph was made."""
        number = node._sequence_nr()
        around = [call for call in self.calls if call.begin <= number < call.end]
        return max(around, key=lambda call: call.begin, default=None)

    def _before(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            # A mask of -inf is a healthy input; NaN and +inf come from the caller's own code.
            value = next(
                (k for k in map(_kind, tensors((args, kwargs))) if k in ("nan", "inf")), ""
            )
            if value and self._running and self.culprit is None:
                parent = self._running[-1]
                self.culprit = self.suspect or NonFinite("forward", parent.name, parent.type, value)
            call = _Call(name, class_name(module), sequence_number())
            self._running.append(call)
            self.calls.append(call)

        return hook

    def _after(self, module: nn.Module, _: Any, outputs: Any) -> None:
        call = self._running.pop()
        call.end = sequence_number()
        kinds = [kind for kind in map(_kind, tensors(outputs)) if kind]
        if not kinds or self.culprit is not None:
            return
        value = "nan" if "nan" in kinds else kinds[0]
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
            kinds = [kind for kind in map(_kind, tensors(grad_inputs)) if kind]
            if kinds and not found and not any(map(_kind, tensors(grad_outputs))):
                owner = trace.owner(node)
                name, kind = (owner.name, owner.type) if owner else ("(loss)", "")
                value = "nan" if "nan" in kinds else kinds[0]
                found.append(NonFinite("backward", name, kind, value, op=op_name(node)))

        return hook

    handles = [node.register_hook(watch(node)) for node in graph.nodes]
    try:
        with run.own_gradients():
            run.backward(loss)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _kind(tensor: Tensor) -> str:
    """Return "nan", "inf" or "-inf" for a tensor that holds such a value, worst first; else ""."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return ""
    tensor = packed(unwrapped(tensor).detach())
    with outside_transforms():
        return _kind_of(tensor)


def _kind_of(tensor: Tensor) -> str:
    norm = float(l2_norm(tensor))
    if math.isfinite(norm):
        return ""
    if bool(tensor.isnan().any()):
        return "nan"
    return "inf" if tensor.is_complex() or bool((tensor == math.inf).any()) else "-inf"


def _bad_parameter(module: nn.Module) -> str:
    """Name of a module's own parameter that is itself not finite, "" if there is none."""
    for name, parameter in module.named_parameters(recurse=False):
        if _kind(parameter):
            return name
    return ""

"""One forward and one backward of what is probed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.formatting import text_of, told
from pytest_gradhealth.isolation.gradients import gradients_set_aside
from pytest_gradhealth.isolation.random_state import seed_everything
from pytest_gradhealth.subject.advice import advised
from pytest_gradhealth.subject.calling import as_called
from pytest_gradhealth.subject.forward import call_model, fresh
from pytest_gradhealth.subject.handed import Handed
from pytest_gradhealth.subject.inputs import check_outputs
from pytest_gradhealth.subject.loss import objective
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.graph import Graph, sequence_number, walk
from pytest_gradhealth.tensors.modules import is_sharded


class Pass:
    """A run of a subject on copies of its batch, with random numbers drawn from `seed`.

    Without a seed they go on from where they are. To be called inside `isolated`.
    """

    def __init__(self, subject: Subject, seed: int | None = None) -> None:
        if seed is not None:
            seed_everything(seed, subject.device)
        # An autocast around all of it would have this run compute with the weights of the last one.
        torch.clear_autocast_cache()
        self.subject = subject
        self.inputs, self.targets = fresh((subject.inputs, subject.targets), subject.device)
        self.outputs: Any = None
        #: What the loss is, in words, once it has been made.
        self.objective = ""
        self._began = sequence_number()
        # Under fully_shard, a forward leaves other parameters in place.
        self._leaves = self._parameters()
        self._keep = False

    def forward(self) -> Any:
        """Call the model; raises ProbeError if it fails, or gets nothing to do."""
        with advised(self._handed("forward")):
            self.outputs = call_model(self.subject.model, self.inputs)
        check_outputs(self.inputs, self.outputs)
        return self.outputs

    def loss(self) -> Tensor:
        """The scalar loss of the outputs; raises ProbeError if it cannot be differentiated."""
        with advised(self._handed("loss")):
            found = objective(self.outputs, self.targets, self.subject.loss)
        self.objective = found.name
        return found.value

    def run(self) -> Tensor:
        """Forward to the scalar loss."""
        self.forward()
        return self.loss()

    def graph(self, loss: Tensor) -> Graph:
        """The graph behind the loss, whose leaves count as leaves of this run from then on."""
        graph = walk(loss)
        self._keep = graph.reaches_behind(self._began)
        if is_sharded(self.subject.model):
            self._leaves |= self._parameters()
        self._leaves |= {id(t): t for t in graph.leaves}
        return graph

    def forget_batch(self) -> None:
        """Let go of batch and outputs, as far as the graph does without them."""
        self.inputs = self.targets = self.outputs = None

    @contextmanager
    def own_gradients(self) -> Iterator[None]:
        """Give all leaves empty gradients, and the caller's back on exit."""
        with gradients_set_aside(self._leaves.values()):
            yield

    def backward(self, loss: Tensor) -> None:
        """Back-propagate; raises ProbeError with the cause chained.

        A graph that is partly the caller's (a state kept of an earlier forward) is kept.
        """
        run_backward(loss, keep=self._keep)

    def _handed(self, to: Literal["forward", "loss"]) -> Handed:
        subject = self.subject
        given = as_called(self.inputs)
        batch = given.inputs, self.targets
        return Handed(to, subject.model, *batch, given.call, subject.loss, self.outputs)

    def _parameters(self) -> dict[int, Tensor]:
        return {id(t): t for module in self.subject.modules for t in module.parameters()}


def run_backward(loss: Tensor, *, keep: bool = False) -> None:
    """Back-propagate, keeping the graph if it says so; raises ProbeError with the cause chained."""
    try:
        loss.backward(retain_graph=keep)  # type: ignore[no-untyped-call]
    except Exception as error:
        raise ProbeError(f"the backward pass raised {told(error)}{_instead_of(error)}") from error


#: What to write instead, by what torch says of a backward.
_INSTEAD = {
    "backward through the graph a second time": (
        "leave backward() to the probe, and detach what is kept from before"
    ),
    "modified by an inplace operation": (
        "the backward needs what was overwritten: x = x + 1 in place of x += 1 or x.add_(1), and"
        " no inplace=True behind it"
    ),
}


def _instead_of(error: Exception) -> str:
    said = text_of(error)
    return "".join(f"\n  {advice}" for sign, advice in _INSTEAD.items() if sign in said)

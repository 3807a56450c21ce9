"""One backward in which something is read of every gradient, of outputs and of parameters."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pytest_gradhealth.measure.recorder import Mark, Recorder
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.modules import named_parameters
from pytest_gradhealth.tensors.trees import tensors


def read_every_gradient(
    subject: Subject,
    reading: Callable[[Tensor], Tensor],
    *,
    seed: int,
    factor: float = 1.0,
    inputs: bool = False,
) -> tuple[list[Mark], dict[str, Tensor]]:
    """Return the outputs that got a gradient, with what was read of it, and that of parameters.

    The loss is multiplied by `factor`. If asked for, floating `inputs` count as outputs, those that
    take gradients by themselves first, as does what weights without a layer make of others. To be
    called inside `isolated`. Raises ProbeError if the model, the loss or the backward fails.
    """
    run = Pass(subject, seed)
    recorder = Recorder(subject.model, entries=inputs, reading=reading)
    with recorder.attached():
        if inputs:
            given = [t for t in tensors(run.inputs) if t.is_floating_point() or t.is_complex()]
            given.sort(key=lambda tensor: not tensor.requires_grad)
            recorder.mark_inputs([tensor.requires_grad_() for tensor in given])
        run.forward()
        recorder.active = False
        loss = run.loss()
        run.graph(loss)
        recorder.forget_graph()
        recorder.gradients = "measured"
        with run.own_gradients():
            run.backward(loss * factor)
            gradients = {n: p.grad for n, (p, _) in named_parameters(subject.model).items()}
            parameters = {n: reading(g) for n, g in gradients.items() if g is not None}
    return [mark for mark in recorder.marks if mark.gradient is not None], parameters

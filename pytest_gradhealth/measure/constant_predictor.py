"""The loss that a model reaches without learning anything: that of one answer for all examples."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.subject.forward import call_model, fresh
from pytest_gradhealth.subject.loss import scalar_loss
from pytest_gradhealth.subject.subject import Subject

#: Outputs beyond this are no start for the search of the best answer.
LARGEST_START = 1e2


def constant_answer(subject: Subject) -> float | None:
    """Return the least loss that one answer for all examples can have, None if that is unknown.

    For cross entropy that is the entropy of the labels in the batch, for squared errors their
    variance. Known for models that return one floating tensor, batch first, with a loss that takes
    it. To be called inside `isolated`.
    """
    if subject.loss is None:
        return None
    inputs, targets = fresh((subject.inputs, subject.targets), subject.device)
    try:
        outputs = call_model(subject.model, inputs)  # with a graph, where it differentiates itself
    except ProbeError:
        return None
    if not isinstance(outputs, Tensor) or outputs.is_nested:
        return None
    if not outputs.is_floating_point() or outputs.dim() < 2:
        return None
    start = outputs.detach().mean(0, keepdim=True)
    if not bool((start.abs() < LARGEST_START).all()):
        start = torch.zeros_like(start)
    answer = start.requires_grad_()
    optimizer = torch.optim.LBFGS([answer], max_iter=50, line_search_fn="strong_wolfe")
    losses: list[float] = []

    def closure() -> Tensor:
        loss = scalar_loss(answer.expand_as(outputs), targets, subject.loss)
        losses.append(float(loss))
        level = loss / (abs(losses[0]) or 1.0)  # the search stops at gradients of a fixed size
        (answer.grad,) = torch.autograd.grad(level, [answer])  # a loss may hold parameters
        return level

    try:
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    except Exception:
        return None  # a loss that wants probabilities, say, and the search has left their range
    return min(filter(math.isfinite, losses), default=None)

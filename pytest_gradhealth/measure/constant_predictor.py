"""The loss that a model reaches without learning anything: that of one answer for all examples.

One answer is as much as the last layer can say by its bias: a number for each of its units, the
same at all positions (pixels, tokens) that it goes over. Where every position had an answer of its
own, few examples with many of them would leave nothing to learn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

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
    it, and more than one position or example to be one answer for. To be called inside `isolated`.
    """
    if subject.loss is None:
        return None
    inputs, targets = fresh((subject.inputs, subject.targets), subject.device)
    try:
        with _last_layer(subject.model) as layers:
            outputs = call_model(subject.model, inputs)  # with a graph: it may differentiate itself
    except ProbeError:
        return None
    if not isinstance(outputs, Tensor) or outputs.is_nested:
        return None
    if not outputs.is_floating_point() or outputs.dim() < 2:
        return None
    start = outputs.detach().mean(_positions(outputs, layers), keepdim=True)
    if start.numel() == outputs.numel():
        return None
    if not bool((start.abs() < LARGEST_START).all()):
        start = torch.zeros_like(start)
    answer = start.requires_grad_()
    optimizer = torch.optim.LBFGS([answer], max_iter=50, line_search_fn="strong_wolfe")
    losses: list[float] = []

    def closure() -> Tensor:
        loss = scalar_loss(answer.expand_as(outputs), targets, subject.loss)
        losses.append(float(loss.detach()))
        level = loss / (abs(losses[0]) or 1.0)  # the search stops at gradients of a fixed size
        (answer.grad,) = torch.autograd.grad(level, [answer])  # a loss may hold parameters
        return level.detach()

    try:
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    except Exception:
        return None  # a loss that wants probabilities, say, and the search has left their range
    return min(filter(math.isfinite, losses), default=None)


@contextmanager
def _last_layer(model: nn.Module) -> Iterator[list[nn.Module]]:
    """Collect the layers with units in the order of their calls, for the length of the context."""
    called: list[nn.Module] = []

    def note(module: nn.Module, *_: object) -> None:
        called.append(module)

    layers = (module for module in model.modules() if isinstance(module, (nn.Linear, _ConvNd)))
    handles = [layer.register_forward_hook(note) for layer in layers]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


def _positions(outputs: Tensor, layers: Sequence[nn.Module]) -> list[int]:
    """The dimensions of outputs that count examples, and what their last layer goes over.

    The examples alone where its units cannot be told.
    """
    last = layers[-1] if layers else None
    if isinstance(last, nn.Linear) and outputs.shape[-1] == last.out_features:
        return [*range(outputs.dim() - 1)]
    if isinstance(last, _ConvNd) and outputs.shape[1] == last.out_channels:
        return [0, *range(2, outputs.dim())]
    one = getattr(last, "out_features", getattr(last, "out_channels", 0)) == 1
    return [*range(outputs.dim())] if one else [0]

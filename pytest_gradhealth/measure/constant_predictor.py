"""What a loss comes to without learning anything: one answer for all examples, and its spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import pstdev
from typing import Any

import torch
from torch import Tensor

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.results.yardstick import Yardstick
from pytest_gradhealth.subject.forward import call_model, fresh
from pytest_gradhealth.subject.loss import scalar_loss
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.trees import map_tensors, tensors
from pytest_gradhealth.training.uncompiled import uncompiled

#: Outputs beyond this are no start for the search of the best answer.
LARGEST_START = 1e2
#: Examples from which on an answer may have a number of its own for every position: with fewer
#: it has them by heart.
MANY = 10
#: Share of the loss at the start of the search below which the answer is right for everyone.
EXACT = 1e-9
#: Share of the slope at its start that a search may end with, else there is no lowest loss.
SETTLED = 0.1
#: Examples whose losses are compared.
COMPARED = 16


#: The loss of an answer, the size of its slope there, and the answer, if it is one.
_Tried = tuple[float, float, tuple[float, ...]]


def constant_answer(subject: Subject) -> float | None:
    """Return the least loss that one answer for all examples can have, None if that is unknown.

    For cross entropy that is the entropy of the labels in the batch, for squared errors their
    variance. Known for models whose outputs come batch first, with a loss that takes them. To be
    called inside `isolated`.
    """
    constant = yardstick(subject).constant
    return None if math.isnan(constant) else constant


def yardstick(subject: Subject) -> Yardstick:
    """Return what a fall of the loss can be held against. To be called inside `isolated`."""
    if subject.loss is None:
        return Yardstick()
    inputs, targets = fresh((subject.inputs, subject.targets), subject.device)
    try:
        with torch.enable_grad():  # with a graph, where it differentiates itself
            outputs = call_model(subject.model, inputs)
    except ProbeError:
        return Yardstick()
    found = _search(outputs, targets, subject)
    spread = _spread(outputs, targets, subject)
    if not found:
        return Yardstick(spread=spread)
    (start, first_slope, _), (best, last_slope, answer) = found[0], min(found)
    # There is no best answer to a loss without a bound; one that is right for all tells nothing.
    tells = last_slope <= SETTLED * first_slope and abs(best) > EXACT * abs(start)
    if not tells:
        return Yardstick(spread=spread, can_be_negative=best < 0)
    return Yardstick(best, spread, best < 0, answer)


def _search(outputs: Any, targets: Any, subject: Subject) -> list[_Tried]:
    """Loss and size of its slope on the way to the best answer, nothing if there is none."""
    free = (t for t in tensors(outputs) if t.is_floating_point() and t.requires_grad)
    varied = [t for t in free if _is_batch(t)]
    if not varied or not _differ(varied, targets):
        return []
    answers = {id(t): _start(t, targets).requires_grad_() for t in varied}
    variables = list(answers.values())
    optimizer = uncompiled(torch.optim.LBFGS)(variables, max_iter=50, line_search_fn="strong_wolfe")
    found: list[_Tried] = []

    def answered(output: Tensor) -> Tensor:
        answer = answers.get(id(output))
        return output if answer is None else answer.expand_as(output)

    def closure() -> Tensor:
        loss = scalar_loss(map_tensors(answered, outputs), targets, subject.loss)
        size = float(loss.detach())
        scale = abs(found[0][0] if found else size) or 1.0
        level = loss / scale  # the search stops at gradients of a fixed size
        # A loss may hold parameters, and read only some of the outputs.
        slopes = torch.autograd.grad(level, variables, allow_unused=True, retain_graph=True)
        for answer, slope in zip(variables, slopes, strict=True):
            answer.grad = torch.zeros_like(answer) if slope is None else slope
        steepest = max(float(slope.abs().max()) for slope in slopes if slope is not None)
        if math.isfinite(size):
            numbers = variables[0].detach().flatten().tolist() if len(variables) == 1 else ()
            found.append((size, steepest, tuple(numbers)))
        return level.detach()

    try:
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    except Exception:
        return []  # a loss that wants probabilities, say, and the search has left their range
    return found


def _is_batch(output: Tensor) -> bool:
    return not output.is_nested and output.dim() > 0 and output.shape[0] > 0


def _differ(outputs: Sequence[Tensor], targets: Any) -> bool:
    """Whether there are examples to be told apart."""
    if len(outputs[0]) == 1 and all(output.dim() < 3 for output in outputs):
        return False
    wanted = [t for t in tensors(targets) if t.dim() and len(t) > 1 and not t.is_nested]
    return not wanted or any(bool((t != t[:1]).any()) for t in wanted)


def _start(output: Tensor, targets: Any) -> Tensor:
    """The mean answer: of all examples and, if these are few, of all positions."""
    kept = set(range(1, output.dim()))
    if output.dim() > 2 and len(output) < MANY:
        kept = {_answer_dimension(output, targets)}
    start = output.detach().mean([d for d in range(output.dim()) if d not in kept], keepdim=True)
    return start if bool((start.abs() < LARGEST_START).all()) else torch.zeros_like(start)


def _answer_dimension(output: Tensor, targets: Any) -> int:
    """The dimension of classes, which labels lack, or that of the fewest numbers."""
    shape = tuple(output.shape)
    labelled = {tuple(t.shape) for t in tensors(targets)}
    for dimension in range(1, len(shape)):
        if shape[:dimension] + shape[dimension + 1 :] in labelled:
            return dimension
    return min(range(1, len(shape)), key=shape.__getitem__)


def _spread(outputs: Any, targets: Any, subject: Subject) -> float:
    """How far the losses of single examples lie apart, NaN where they cannot be told."""
    first = next(tensors(outputs), None)
    examples = len(first) if first is not None and _is_batch(first) else 0
    if examples < 2:
        return math.nan

    def one(number: int, values: Any) -> Any:
        def cut(tensor: Tensor) -> Tensor:
            of_all = _is_batch(tensor) and len(tensor) == examples
            return tensor[number : number + 1] if of_all else tensor

        return map_tensors(cut, values)

    try:
        losses = [
            float(scalar_loss(one(i, outputs), one(i, targets), subject.loss).detach())
            for i in range(min(examples, COMPARED))
        ]
    except Exception:
        return math.nan  # a loss of the batch as a whole
    return pstdev(losses) if all(map(math.isfinite, losses)) else math.nan

"""What a loss comes to without learning anything: one answer for all examples, and its spread."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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

#: Examples from which on an answer may have a number of its own for every position: with fewer
#: it has them by heart.
MANY = 10
#: Share of the loss at the start of the search below which the answer is right for everyone.
EXACT = 1e-9
#: Share of the slope at its start that a search may end with, else there is no lowest loss; and of
#: the slopes of all examples, which are opposed where one answer has to do for all.
SETTLED, OPPOSED = 0.1, 1e-4
#: Share of its own loss by which a start of zeros has to be better than another.
CLEARLY = 0.1
#: Examples whose losses are compared.
COMPARED = 16
#: What stands for each output of a batch, by its identity.
_Answers = Mapping[int, Tensor]


@dataclass(frozen=True)
class _Tried:
    """The loss of answers, the size of its slope there, and that of single examples' slopes."""

    loss: float
    slope: float
    single: float
    answers: _Answers


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
    start, best = found[0], min(found, key=lambda tried: tried.loss)
    # There is no best answer to a loss without a bound; one that is right for all tells nothing.
    settled = best.slope <= max(SETTLED * start.slope, OPPOSED * best.single)
    if not settled or abs(best.loss) <= EXACT * abs(start.loss):
        return Yardstick(spread=spread, can_be_negative=best.loss < 0)
    # Huge outputs have their losses any distance apart; those of one answer may all be the same.
    spreads = spread, _spread(_answered(outputs, best.answers), targets, subject)
    spread = min((s for s in spreads if s > 0), default=spread)
    one = next(iter(best.answers.values())) if len(best.answers) == 1 else torch.empty(0)
    return Yardstick(best.loss, spread, best.loss < 0, tuple(one.flatten().tolist()))


def _search(outputs: Any, targets: Any, subject: Subject) -> list[_Tried]:
    """Loss and size of its slope on the way to the best answer, nothing if there is none."""
    free = (t for t in tensors(outputs) if t.is_floating_point() and t.requires_grad)
    varied = [t for t in free if _is_batch(t)]
    if not varied or not _differ(varied, targets):
        return []
    found: list[_Tried] = []

    def loss_of(answers: _Answers) -> Tensor:
        return scalar_loss(_answered(outputs, answers), targets, subject.loss)

    try:
        answers = _best_start(varied, targets, loss_of)
        variables = [answers[id(output)] for output in varied]
        optimizer = uncompiled(torch.optim.LBFGS)(
            variables, max_iter=50, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            wide = [v.expand_as(output) for v, output in zip(variables, varied, strict=True)]
            loss = loss_of({id(t): w for t, w in zip(varied, wide, strict=True)})
            size = float(loss.detach())
            scale = abs(found[0].loss if found else size) or 1.0
            level = loss / scale  # the search stops at gradients of a fixed size
            # A loss may hold parameters, and read only some of the outputs.
            slopes = torch.autograd.grad(level, wide, allow_unused=True, retain_graph=True)
            for answer, slope in zip(variables, slopes, strict=True):
                each = torch.zeros_like(answer) if slope is None else slope
                answer.grad = each.sum_to_size(answer.shape)
            if math.isfinite(size):
                reached = {k: v.detach().clone().requires_grad_() for k, v in answers.items()}
                found.append(_Tried(size, *_steepest(variables, slopes), reached))
            return level.detach()

        optimizer.step(closure)  # type: ignore[no-untyped-call]
    except Exception:
        return []  # a loss that wants probabilities, say, and the search has left their range
    return found


def _steepest(variables: Sequence[Tensor], slopes: Sequence[Tensor | None]) -> tuple[float, float]:
    """The largest slope of answers, and that of the slopes of examples, whatever their signs."""
    read = [(s, v.shape) for s, v in zip(slopes, variables, strict=True) if s is not None]
    together = max(float(s.sum_to_size(shape).abs().max()) for s, shape in read)
    return together, max(float(s.abs().sum_to_size(shape).max()) for s, shape in read)


def _best_start(
    outputs: Sequence[Tensor], targets: Any, loss_of: Callable[[_Answers], Tensor]
) -> _Answers:
    """Answers to begin with: mean outputs or, if their loss is less, mean targets.

    Zeros, where theirs is clearly less: from huge outputs, no search gets anywhere.
    """
    means = {id(t): _mean(t, t, targets) for t in outputs}
    wanted = {id(t): _mean(w, t, targets) for t in outputs for w in _like(t, targets)}
    zeros = {key: torch.zeros_like(mean) for key, mean in means.items()}

    def loss(start: _Answers) -> float:
        wide = {id(t): start[id(t)].requires_grad_().expand_as(t) for t in outputs}
        try:
            size = float(loss_of(wide).detach())
        except Exception:
            return math.inf  # zeros are no standard deviation, say
        return size if math.isfinite(size) else math.inf

    best = min((means, {**means, **wanted}), key=loss)
    without = loss(zeros)
    return zeros if without + CLEARLY * abs(without) < loss(best) else best


def _answered(outputs: Any, answers: _Answers) -> Any:
    """Outputs, with answers for all examples in place of those that have one."""

    def answered(output: Tensor) -> Tensor:
        answer = answers.get(id(output))
        return output if answer is None else answer.expand_as(output)

    return map_tensors(answered, outputs)


def _like(output: Tensor, targets: Any) -> Iterator[Tensor]:
    """Targets that an output may be compared with, number by number."""
    for target in tensors(targets):
        if target.is_floating_point() and target.shape == output.shape:
            yield target.detach().to(output)


def _is_batch(output: Tensor) -> bool:
    return not output.is_nested and output.dim() > 0 and output.shape[0] > 0


def _differ(outputs: Sequence[Tensor], targets: Any) -> bool:
    """Whether there are examples to be told apart."""
    if len(outputs[0]) == 1 and all(output.dim() < 3 for output in outputs):
        return False
    wanted = [t for t in tensors(targets) if t.dim() and len(t) > 1 and not t.is_nested]
    return not wanted or any(bool((t != t[:1]).any()) for t in wanted)


def _mean(numbers: Tensor, output: Tensor, targets: Any) -> Tensor:
    """The mean answer: of all examples and, if these are few, of all positions of an output."""
    kept = set(range(1, output.dim()))
    if output.dim() > 2 and len(output) < MANY:
        kept = {_answer_dimension(output, targets)}
    return numbers.detach().mean([d for d in range(output.dim()) if d not in kept], keepdim=True)


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

"""Whether one batch can be learned: training steps on a copy, until that is decided."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.optim import Optimizer

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.measure.constant_predictor import yardstick
from pytest_gradhealth.measure.nonfinite import first_non_finite
from pytest_gradhealth.results.learning import Learning
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.modules import named_parameters
from pytest_gradhealth.tensors.norms import l2_norms, to_numbers
from pytest_gradhealth.training.kind import climbs
from pytest_gradhealth.training.learning import LONGER, course_of, goal_of
from pytest_gradhealth.training.loop import train


def learned(
    subject: Subject, optimizer: Optimizer, given: nn.Module, *, seed: int, steps: int
) -> Learning:
    """Train `subject`, a copy of the `given` model, until it is decided whether that learns.

    The random numbers are the same in each step, as the batch is. A step whose loss or gradient is
    not finite is not made, so that it can be asked where that comes from. To be called inside
    `isolated`. Raises ProbeError if the model, the loss or the optimizer fails on the way.
    """
    held_against = yardstick(subject)
    losses: list[float] = []
    course, bad = None, None
    run = train(
        subject,
        optimizer,
        seed=seed,
        steps=LONGER * steps,
        anew=False,
        after_clip=_check_finite,
    )
    while course is None:
        try:
            losses.append(float(next(run)) / subject.scale)
        except _BrokenError:
            losses.append(math.nan)
            bad = first_non_finite(subject, seed=seed)
        goal, follows_from = goal_of(losses[0], held_against)
        course = course_of(losses, goal, held_against, steps)
    return Learning(
        steps=steps,
        losses=tuple(losses),
        course=course,
        goal=goal,
        held_against=follows_from,
        constant=None if math.isnan(held_against.constant) else held_against.constant,
        change=_change(given, subject.model),
        climbs=climbs(optimizer),
        non_finite=bad,
    )


class _BrokenError(ProbeError):
    """The loss or the gradient of a step is not finite."""


def _check_finite(model: nn.Module, loss: Tensor) -> None:
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if not all(map(math.isfinite, to_numbers([loss.detach(), *l2_norms(gradients)]))):
        raise _BrokenError


def _change(before: nn.Module, after: nn.Module) -> float | None:
    """The most that a parameter has moved, over its norm, None where none has one."""
    known = {name: p.detach() for name, (p, _) in named_parameters(before).items()}
    found = {n: p.detach() for n, (p, _) in named_parameters(after).items() if p.requires_grad}
    names = [name for name, p in found.items() if name in known and known[name].shape == p.shape]
    moved = to_numbers(l2_norms([found[name] - known[name].to(found[name]) for name in names]))
    sizes = to_numbers(l2_norms([known[name] for name in names]))
    return max((m / size for m, size in zip(moved, sizes, strict=True) if size), default=None)

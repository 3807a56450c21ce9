"""A copy of what is probed, with an optimizer of its own, ready to be trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.optim import Optimizer

from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.training.copies import copied
from pytest_gradhealth.training.loop import optimizer_for
from pytest_gradhealth.training.optimizers import OptimizerLike
from pytest_gradhealth.training.rebinding import explained


@contextmanager
def twin_of(
    subject: Subject, optimizer: OptimizerLike | None
) -> Iterator[tuple[Subject, Optimizer]]:
    """Copy `subject` and its optimizer; what a step does to anything else is put back on exit.

    Raises ProbeError if they cannot be copied, with what makes the copy lead back to the original.
    """
    with subject.isolated(optimizer):
        twin, own = copied(subject, optimizer, subject.device)
        stepper = optimizer_for(twin, own)
        with explained(subject.model, twin.model):
            yield twin, stepper

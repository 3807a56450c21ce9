"""The second look: on a deep copy, after a few steps of the user's optimizer."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from pytest_gradhealth.measure.reading import Look
from pytest_gradhealth.measure.recurrence import look_through_time
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.modules import is_sharded, named_parameters
from pytest_gradhealth.tensors.unwrap import whole
from pytest_gradhealth.training.copies import copied
from pytest_gradhealth.training.loop import train
from pytest_gradhealth.training.memory import check_room
from pytest_gradhealth.training.optimizers import OptimizerLike, build
from pytest_gradhealth.training.rebinding import explained


def look_after_steps(
    subject: Subject, optimizer: OptimizerLike | None, *, seed: int, steps: int
) -> Look:
    """Train a copy of `subject` for `steps` steps on its batch and look again.

    Raises ProbeError if the model, the loss or the optimizer fails on the way, or there is no room
    for the copy.
    """
    awake: set[str] = set()

    def note(model: nn.Module) -> None:
        for name, (parameter, _) in named_parameters(model).items():
            gradient = parameter.grad
            if name not in awake and gradient is not None and bool(whole(gradient).any()):
                awake.add(name)

    if not is_sharded(subject.model):
        check_room(subject.modules, optimizer, subject.device)
    with subject.isolated(optimizer):
        twin, optimizer = copied(subject, optimizer, subject.device)
        stepper = build(optimizer, [p for p in twin.model.parameters() if p.requires_grad])
        with explained(subject.model, twin.model):
            for _ in train(twin, stepper, seed=seed, steps=steps, before_clip=note):
                pass
            seen = look_through_time(twin, seed=seed, steps=steps)
    return replace(seen, profile=replace(seen.profile, awake=tuple(sorted(awake))))

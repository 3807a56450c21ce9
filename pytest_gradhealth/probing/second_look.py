"""The second look: on a deep copy, after a few steps of the user's optimizer."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import nn

from pytest_gradhealth.measure.constant_predictor import constant_answer
from pytest_gradhealth.measure.felt import with_felt_outputs
from pytest_gradhealth.measure.reading import Look
from pytest_gradhealth.measure.recurrence import look_through_time
from pytest_gradhealth.measure.rounding import rounding
from pytest_gradhealth.probing.prepare import Trial
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.modules import is_sharded, named_parameters
from pytest_gradhealth.tensors.unwrap import whole
from pytest_gradhealth.training.copies import copied
from pytest_gradhealth.training.loop import train
from pytest_gradhealth.training.memory import check_room
from pytest_gradhealth.training.optimizers import OptimizerLike, build
from pytest_gradhealth.training.rebinding import explained

#: Steps before a last look at a model that is on its way, and the most elements that its parameters
#: and the outputs of its layers may have together: seconds, where a large one would take minutes.
MORE_STEPS = 150
MOST_ELEMENTS = 5 * 10**6
#: Share of the loss that one answer for all examples has, by which a model that learns is better.
LEARNED = 0.01


def look_after_steps(
    subject: Subject,
    optimizer: OptimizerLike | None,
    first: GradientProfile,
    *,
    seed: int,
    steps: int,
) -> Look:
    """Train a copy of `subject` for `steps` steps on its batch and look again.

    What had a gradient of exactly zero in the `first` look, and has nothing but rounding now, has
    not woken. Raises ProbeError if the model, the loss or the optimizer fails on the way, or there
    is no room for the copy.
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
        if not is_sharded(twin.model) and _has_woken(first, seen.profile):
            outputs, parameters = rounding(twin, seed=seed)
            parameters = {p.name for p in first.parameters if p.state == "zero"} & {*parameters}
            keys = {(o.name, o.call, o.output) for o in first.outputs if o.norm == 0}
            seen = seen.silenced(keys & {*outputs}, parameters)
            awake -= parameters
        profile = with_felt_outputs(twin, seen.profile, seed=seed)
    return replace(seen, profile=replace(profile, awake=tuple(sorted(awake))))


def _has_woken(first: GradientProfile, second: GradientProfile) -> bool:
    """Whether something has a gradient now that had none."""
    silent = {p.name for p in first.parameters if p.state == "zero"}
    return any(p.name in silent and p.gradient for p in second.parameters)


def leads_on(trial: Trial, first: GradientProfile, second: GradientProfile) -> bool:
    """Whether a model that does not pass in two looks may be another after more steps.

    It is learning already, better than one answer for all examples; or its weights are so small
    that the steps outgrow them, and what they were at first means little to the optimizer.
    """
    elements = sum(math.prod(p.shape) for p in first.parameters)
    if elements + sum(output.numel for output in first.outputs) > MOST_ELEMENTS:
        return False
    before = {p.name: p.norm for p in first.parameters if len(p.shape) > 1}
    grown = [p.norm > 2 * before[p.name] > 0 for p in second.parameters if p.name in before]
    if any(grown):
        return True
    with trial.subject.isolated():
        constant = constant_answer(trial.subject)
    return constant is not None and second.loss < constant - LEARNED * abs(constant)

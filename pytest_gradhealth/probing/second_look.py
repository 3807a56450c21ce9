"""The second look: on a deep copy, after a few steps of the user's optimizer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor, nn

from pytest_gradhealth.distributed.team import anywhere
from pytest_gradhealth.measure.constant_predictor import constant_answer
from pytest_gradhealth.measure.felt import with_felt_outputs
from pytest_gradhealth.measure.reading import Look
from pytest_gradhealth.measure.recorder import Key
from pytest_gradhealth.measure.recurrence import look_through_time
from pytest_gradhealth.measure.rounding import rounding
from pytest_gradhealth.measure.shares import sharing
from pytest_gradhealth.probing.prepare import Trial
from pytest_gradhealth.results.path import GradientPath
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules.path_causes import is_squashed
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.modules import is_sharded, named_parameters
from pytest_gradhealth.tensors.unwrap import whole
from pytest_gradhealth.training.learning import FALL, is_better
from pytest_gradhealth.training.loop import train
from pytest_gradhealth.training.memory import check_room
from pytest_gradhealth.training.optimizers import OptimizerLike
from pytest_gradhealth.training.twin import twin_of

#: Steps before a last look at a model that is on its way, and the most elements that its parameters
#: and the outputs of its layers may have together: seconds, where a large one would take minutes.
MORE_STEPS = 150
MOST_ELEMENTS = 5 * 10**6
#: L2 norm of the gradient at the loss in the steps before the second look, about that of a mean
#: cross entropy over a hundred examples.
LEVEL = 0.1
#: Decades in one step that rounding may be all that is left of: of float32, amplified by the 1e-5
#: under the root of a normalisation.
ABRUPT = -4.0
#: The RMS of weights that make what they scale small.
SMALL = 1e-2
#: Decades in one step that no depth explains, and the most such steps of a path on which small
#: factors are multiplied; more of them are layers.
STEEP, MOST_FACTORS = -1.5, 4


def look_after_steps(
    subject: Subject,
    optimizer: OptimizerLike | None,
    first: GradientProfile,
    *,
    seed: int,
    steps: int,
    lossy: Sequence[GradientPath] = (),
) -> Look:
    """Train a copy of `subject` for `steps` steps on its batch and look again.

    What had a gradient of exactly zero in the `first` look, and has nothing but rounding now, has
    not woken. Of the `lossy` paths, those that have learned are noted. Raises ProbeError if the
    model, the loss or the optimizer fails on the way, or there is no room for the copy.
    """
    awake: set[str] = set()

    def note(model: nn.Module, _loss: Tensor) -> None:
        for name, (parameter, _) in named_parameters(model).items():
            gradient = parameter.grad
            if name not in awake and gradient is not None and bool(whole(gradient).any()):
                awake.add(name)

    if not is_sharded(subject.model):
        check_room(subject.modules, optimizer, subject.device)
    with twin_of(subject, optimizer) as (twin, stepper):
        for _ in train(twin, stepper, seed=seed, steps=steps, before_clip=note):
            pass
        seen = look_through_time(twin, seed=seed, steps=steps)
        faint = [*_faint(first, seen.profile)]
        if not is_sharded(twin.model) and anywhere(subject.model, bool(faint)):
            silent = {*faint} & {*rounding(twin, seed=seed)}
            seen = seen.silenced(silent)
            modules = {name for name, _, _ in silent}
            awake -= {p.name for p in first.parameters if p.is_of(modules)}
        profile = with_felt_outputs(twin, seen.profile, seed=seed)
        learned = tuple(path.first.label for path in lossy)
        if learned and not is_sharded(twin.model):
            learned = sharing(twin, subject.model, (first, seen.profile), lossy)
    return replace(seen, profile=replace(profile, awake=tuple(sorted(awake)), learned=learned))


def _faint(first: GradientProfile, second: GradientProfile) -> Iterator[Key]:
    """Outputs that were silent, and get next to nothing now beside others, or beside their gate."""
    before = {path.first.label: path.silent_at for path in first.judged_paths}
    for path in second.judged_paths:
        gate = before.get(path.first.label)
        if gate is not None and gate < path.links:
            yield from behind_abrupt_steps(path, gate)
    silent = {output.key for output in first.outputs if output.norm == 0}
    woken = {o.key: o.norm for o in second.outputs if o.norm}
    least = 10**ABRUPT * max(woken.values(), default=0.0)
    yield from (key for key, norm in woken.items() if key in silent and norm < least)


def behind_abrupt_steps(path: GradientPath, gate: int | None = None) -> Iterator[Key]:
    """Points behind a step, at a gate or anywhere, in which next to all of the gradient is lost."""
    steps = path.steps if gate is None else path.steps[gate : gate + 1]
    abrupt = [place for place, step in enumerate(steps, gate or 0) if step < ABRUPT]
    for point in path.points[: abrupt[-1] + 1] if abrupt else ():
        if point.norm:
            yield point.key


def swallowed(profile: GradientProfile) -> set[Key]:
    """Outputs that get next to nothing, where any is left as little of what its readers get.

    Where no small weights of these account for it, rounding may be all of that.
    """
    norms: dict[str, float] = {}
    for output in profile.outputs:
        norms[output.name] = max(norms.get(output.name, 0.0), output.norm or 0.0)
    large = {p.module for p in profile.parameters if p.norm > SMALL * math.sqrt(math.prod(p.shape))}
    small = {p.module for p in profile.parameters} - large
    abrupt = any(
        0 < norms.get(record.layer, 0.0) < 10**ABRUPT * min(map(norms.__getitem__, record.users))
        for record in profile.flow
        if norms.keys() >= {*record.users} and small.isdisjoint(record.users)
    )
    least = 10**ABRUPT * max(norms.values(), default=0.0)
    return {o.key for o in profile.outputs if abrupt and o.norm and o.norm < least}


def falls_steeply(path: GradientPath) -> bool:
    """Whether most of what a path loses is lost in steps that neither depth nor slopes explain."""
    links = zip(path.steps, path.points, path.points[1:], strict=False)
    steep = [step for step, far, near in links if step < STEEP and not is_squashed(far, near)]
    return len(steep) <= MOST_FACTORS and 2 * sum(steep) < path.vanishing < 0


def leads_on(
    trial: Trial, first: GradientProfile, second: GradientProfile, lost: Sequence[GradientPath]
) -> bool:
    """Whether a model that does not pass in two looks may be another after more steps.

    It is learning already, better than one answer for all examples; or its weights are so small
    that the steps outgrow them, and what they were at first means little to the optimizer; or what
    is `lost` on paths is lost to a scale, as in a product of small factors, and not to depth; or
    layers are silent that gradient gets past, as spiking ones. To be asked in all processes that
    share the model.
    """
    elements = sum(math.prod(p.shape) for p in first.parameters)
    if elements + sum(output.numel for output in first.outputs) > MOST_ELEMENTS:
        return False
    before = {p.name: p.norm for p in first.parameters if len(p.shape) > 1}
    grown = [p.norm > 2 * before[p.name] > 0 for p in second.parameters if p.name in before]
    of_scale = bool(lost) and all(map(falls_steeply, lost))
    if anywhere(trial.subject.model, any(grown) or of_scale or bool(first.asleep)):
        return True
    return has_learned(trial, second)


def falls(first: GradientProfile, later: GradientProfile) -> bool:
    """Whether the steps between two looks have lowered a loss that does not go below zero."""
    return 0 <= later.loss < (1 - FALL) * first.loss


def has_learned(trial: Trial, look: GradientProfile) -> bool:
    """Whether a model is better by now than one answer for all examples."""
    with trial.subject.isolated():
        constant = constant_answer(trial.subject)
    return constant is not None and is_better(look.loss, constant)


def leveling(profile: GradientProfile) -> float:
    """What brings the gradient at the last layers to a common size.

    Adam's eps would otherwise make the second look depend on the scale of the loss, which is
    anyone's choice where no optimizer is declared.
    """
    size = max((path.among_layers.last.norm for path in profile.judged_paths), default=0.0)
    return LEVEL / size if 0 < size < math.inf else 1.0

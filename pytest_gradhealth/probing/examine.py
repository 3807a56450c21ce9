"""One seed: a look, another where a rule wants to be sure, and what the rules say of both."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

from pytest_gradhealth.distributed.team import anywhere, everywhere
from pytest_gradhealth.measure.nonfinite import first_non_finite
from pytest_gradhealth.measure.perturbation import data_carriers, without_influence
from pytest_gradhealth.measure.precision import magnitudes
from pytest_gradhealth.measure.reading import Look
from pytest_gradhealth.measure.recurrence import look_through_time
from pytest_gradhealth.probing.judge import Criteria
from pytest_gradhealth.probing.prepare import Trial
from pytest_gradhealth.probing.second_look import look_after_steps
from pytest_gradhealth.results.diagnosis import Finding
from pytest_gradhealth.results.profile import SOMEWHERE, GradientProfile, Update
from pytest_gradhealth.rules.exploding import scale_free_weights
from pytest_gradhealth.subject.inputs import check_numbers, holds_nan, with_zeros
from pytest_gradhealth.training.copies import copied
from pytest_gradhealth.training.optimizers import build
from pytest_gradhealth.training.rebinding import explained
from pytest_gradhealth.training.updates import updates

#: L2 norm of the gradient at the loss in the steps before the second look, about that of a mean
#: cross entropy over a hundred examples.
LEVEL = 0.1
#: How many of the user's training steps are made where they are judged.
UPDATE_STEPS = 10


def examine(trial: Trial, criteria: Criteria) -> tuple[list[GradientProfile], tuple[Finding, ...]]:
    """Look under one seed, again where a rule wants to be sure, and judge."""
    subject, seed = trial.subject, trial.seed
    with subject.isolated():
        first = look_through_time(subject, seed=seed)
    if trial.makes_steps:
        made = _updates(trial, first.profile)
        first = replace(first, profile=replace(first.profile, updates=made))
    if anywhere(subject.model, not _is_finite(first.profile)):
        first = _marked(first, trial)
    profile = _with_missing(_with_ignored(trial, first.profile), subject.inputs)
    first = replace(first, profile=profile)
    if subject.loss_scale.format:
        with subject.isolated():
            forecast = magnitudes(subject, seed=seed)
        profile = replace(first.profile, magnitudes=forecast, loss_scale=subject.loss_scale)
        first = replace(first, profile=profile)
    findings = criteria.judge(first.profile)
    doubt = criteria.in_doubt(findings)
    on_paths = any(f.path is not None and f.severity != "info" for f in findings)
    if not anywhere(subject.model, doubt or on_paths):
        return [first.profile], findings

    carriers = None
    if anywhere(subject.model, len(first.profile.judged_paths) > 1):
        with subject.isolated():
            carriers = data_carriers(subject, seed=seed)
    if carriers is not None:
        first = first.restricted_to(carriers)
        findings = criteria.judge(first.profile)
    if not criteria.confirm_steps or not anywhere(subject.model, criteria.in_doubt(findings)):
        return [first.profile], findings

    if trial.optimizer is None:
        subject = replace(subject, scale=_leveling(first.profile))
    second = look_after_steps(subject, trial.optimizer, seed=seed, steps=criteria.confirm_steps)
    ignored = {output.name for output in first.profile.outputs if output.state == "ignored"}
    second = replace(second, profile=_marked_ignored(second.profile, ignored))
    if carriers is not None:
        second = second.restricted_to(carriers)
    if not _is_finite(second.profile):
        second = second.marked(SOMEWHERE)
    return [first.profile, second.profile], criteria.judge(first.profile, second.profile)


def _marked(look: Look, trial: Trial) -> Look:
    """Say where NaN or infinity comes up; raises ProbeError where the inputs bring it along."""
    inputs = trial.subject.inputs
    subject = replace(trial.subject, inputs=with_zeros(inputs))
    with subject.isolated():
        bad = first_non_finite(subject, seed=trial.seed)
    if _is_finite(look.profile):
        return look
    if bad is None:
        check_numbers(inputs)
    return look.marked(bad or SOMEWHERE)


def _updates(trial: Trial, profile: GradientProfile) -> tuple[Update, ...]:
    """Make some of the user's training steps on a copy."""
    subject = trial.subject
    exempt = scale_free_weights(profile)
    with subject.isolated(trial.optimizer):
        twin, optimizer = copied(subject, trial.optimizer, subject.device)
        stepper = build(optimizer, [p for p in twin.model.parameters() if p.requires_grad])
        with explained(subject.model, twin.model):
            return updates(twin, stepper, seed=trial.seed, steps=UPDATE_STEPS, exempt=exempt)


def _with_ignored(trial: Trial, profile: GradientProfile) -> GradientProfile:
    """Tell layers whose output the loss ignores from those that are cut off from it."""
    subject = trial.subject
    called = {o.name for o in profile.outputs if o.state in ("unreached", "no-grad")}
    silent = {p.module for p in profile.parameters if p.state == "none"}
    names = sorted(called & silent)
    if names:
        modules = dict(subject.model.named_modules())
        names = [name for name in names if name in modules]
    names = everywhere(subject.model, names)
    if not names:
        return profile
    with subject.isolated():
        return _marked_ignored(profile, without_influence(subject, names, seed=trial.seed))


def _with_missing(profile: GradientProfile, inputs: object) -> GradientProfile:
    """Leave out the size of outputs that are NaN where inputs are: values that are missing."""
    missing = [o.activation is not None and math.isnan(o.activation) for o in profile.outputs]
    if not any(missing) or not holds_nan(inputs):
        return profile
    pairs = zip(profile.outputs, missing, strict=True)
    return replace(
        profile, outputs=tuple(replace(o, activation=None) if m else o for o, m in pairs)
    )


def _marked_ignored(profile: GradientProfile, names: Collection[str]) -> GradientProfile:
    outputs = tuple(
        replace(o, state="ignored") if o.name in names and o.state != "measured" else o
        for o in profile.outputs
    )
    return replace(profile, outputs=outputs)


def _leveling(profile: GradientProfile) -> float:
    """What brings the gradient at the loss to a common size.

    Adam's eps would otherwise make the second look depend on the scale of the loss, which is
    anyone's choice where no optimizer is declared.
    """
    size = max((path.last.norm for path in profile.judged_paths), default=0.0)
    return LEVEL / size if 0 < size < math.inf else 1.0


def _is_finite(profile: GradientProfile) -> bool:
    numbers = [profile.loss]
    numbers += [output.norm for output in profile.outputs if output.norm is not None]
    numbers += [p.gradient for p in profile.parameters if p.gradient is not None]
    return all(map(math.isfinite, numbers))

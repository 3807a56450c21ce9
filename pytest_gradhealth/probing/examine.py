"""One seed: a look, another where a rule wants to be sure, and what the rules say of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace

from pytest_gradhealth.distributed.team import anywhere, everywhere
from pytest_gradhealth.errors import CutOffError, ProbeError
from pytest_gradhealth.isolation.checkpoints import seen_through
from pytest_gradhealth.measure.felt import with_felt_outputs
from pytest_gradhealth.measure.held import fed
from pytest_gradhealth.measure.nonfinite import first_non_finite
from pytest_gradhealth.measure.paths import loops_crossed
from pytest_gradhealth.measure.perturbation import data_carriers
from pytest_gradhealth.measure.precision import magnitudes
from pytest_gradhealth.measure.reading import DataFlow, Look
from pytest_gradhealth.measure.recorder import Key
from pytest_gradhealth.measure.recurrence import look_through_time
from pytest_gradhealth.measure.rounding import rounding
from pytest_gradhealth.probing.judge import Criteria
from pytest_gradhealth.probing.one_batch import learning_of
from pytest_gradhealth.probing.prepare import Trial
from pytest_gradhealth.probing.reasons import (
    reason_of,
    with_reasons,
    with_reasons_of,
    with_stops,
    without_left_out,
)
from pytest_gradhealth.probing.second_look import (
    MORE_STEPS,
    behind_abrupt_steps,
    falls,
    has_learned,
    leads_on,
    leveling,
    look_after_steps,
    swallowed,
)
from pytest_gradhealth.probing.steps import first_step_of, updates_of
from pytest_gradhealth.results.diagnosis import Finding
from pytest_gradhealth.results.path import GradientPath
from pytest_gradhealth.results.profile import SOMEWHERE, GradientProfile
from pytest_gradhealth.subject.inputs import check_numbers, holds_nan, with_zeros
from pytest_gradhealth.subject.loss import STAND_IN
from pytest_gradhealth.tensors.modules import is_sharded, waits_for_others


def examine(trial: Trial, criteria: Criteria) -> tuple[list[GradientProfile], tuple[Finding, ...]]:
    """Look under one seed, again where a rule wants to be sure, judge, and ask why it fails."""
    try:
        looks, findings = _examined(trial, criteria)
    except CutOffError as error:
        cut = ProbeError(reason_of(error, trial.subject, seed=trial.seed))
    else:
        first, *later = looks
        return [with_stops(trial.subject, first, findings, seed=trial.seed), *later], findings
    raise cut  # which does not hold on to what the model has made


def _examined(
    trial: Trial, criteria: Criteria
) -> tuple[list[GradientProfile], tuple[Finding, ...]]:
    model = trial.subject.model
    first = _first_look(trial)
    first = _without_rounding(trial, first, swallowed(first.profile))
    trial, first = _with_learning(trial, criteria, first)
    findings = criteria.judge(first.profile)
    complains = any(finding.complains for finding in findings)
    doubtful = criteria.in_doubt(findings) or any(
        f.path is not None and f.complains for f in findings
    )
    goes_on = doubtful or (complains and any(loops_crossed(first.network)))
    tells = goes_on or complains or any(finding.path is not None for finding in findings)
    if trial.subject.may_sample and anywhere(model, _takes_all(first.profile, tells=tells)):
        return _examined(replace(trial, subject=replace(trial.subject, exact=True)), criteria)
    if complains and first.hides_layers:
        with seen_through(), suppress(ProbeError):
            looks, opened = _examined(trial, criteria)
            if _have_the_same_gradients(first.profile, looks[0]):
                return looks, opened
    if not anywhere(model, goes_on):
        return [first.profile], findings

    failing = (first.profile.paths[f.path] for f in findings if f.path is not None)
    abrupt = {key for path in failing for key in behind_abrupt_steps(path)}
    first = _without_rounding(trial, first, abrupt)
    flow = _data_flow(trial, first, complains=complains)
    first = _along(first, flow)
    findings = criteria.judge(first.profile)
    if not criteria.confirm_steps or not anywhere(model, criteria.in_doubt(findings)):
        return [first.profile], findings
    try:
        second = _second_look(trial, criteria, first.profile, flow)
    except ProbeError:
        if _trains(first.profile) and criteria.hangs_on_steps(findings):
            raise
        return [first.profile], findings  # what warns of a model that cannot be copied stands
    return [first.profile, second], criteria.judge(first.profile, second)


def _takes_all(profile: GradientProfile, *, tells: bool) -> bool:
    """Whether more than samples of large tensors is wanted: where the look `tells` of anything.

    So it is wherever paths run.
    """
    loose = {output.key for output in profile.outputs if output.sampled == "both"}
    points = (point for path in profile.paths for point in path.points)
    seen = any(output.sampled for output in profile.outputs)
    return seen and (tells or any(point.key in loose for point in points))


def _have_the_same_gradients(one: GradientProfile, other: GradientProfile) -> bool:
    """Whether it makes no difference to the weights how checkpoints run."""
    pairs = zip(one.parameters, other.parameters, strict=True)
    return all(
        ours.state == theirs.state
        and math.isclose(ours.gradient or 0.0, theirs.gradient or 0.0, rel_tol=1e-3)
        for ours, theirs in pairs
    )


def _data_flow(trial: Trial, first: Look, *, complains: bool) -> DataFlow:
    """Where data comes in: what paths begin with, and what the steps of loops get beside them."""
    subject, seed, flow = trial.subject, trial.seed, DataFlow()
    if anywhere(subject.model, len(first.profile.judged_paths) > 1):
        with subject.isolated():
            flow = DataFlow(data_carriers(subject, seed=seed))
    complains = complains and not waits_for_others(subject.model)
    if complains and (crossed := [*loops_crossed(first.network)]):
        with subject.isolated():
            flow = replace(flow, fed=fed(subject, crossed, seed=seed))
    return flow


def _along(look: Look, flow: DataFlow) -> Look:
    look = look.along(flow)
    return replace(look, profile=without_left_out(look.profile))


def _first_look(trial: Trial) -> Look:
    """The look that every rule reads, with all that was asked for."""
    subject, seed = trial.subject, trial.seed
    with subject.isolated():
        first = look_through_time(subject, seed=seed)
    profile = with_felt_outputs(subject, first.profile, seed=seed)
    profile = replace(
        profile,
        holdings=trial.kind.holdings,
        unwritten=trial.unwritten,
        weights=trial.weights,
    )
    first = replace(first, profile=profile)
    if trial.makes_steps:
        with nullcontext() if _trains(profile) else suppress(ProbeError):
            made = updates_of(trial, first.profile)
            first = replace(first, profile=replace(first.profile, updates=made))
    step = first_step_of(trial, first.profile)
    first = replace(first, profile=replace(first.profile, first_step=step))
    if anywhere(subject.model, not _is_finite(first.profile)):
        first = _marked(first, trial)
    profile = with_reasons(trial.subject, first.profile, seed=trial.seed)
    first = replace(first, profile=_with_missing(profile, subject.inputs))
    if subject.loss_scale.format:
        with subject.isolated():
            forecast = magnitudes(subject, seed=seed)
        profile = replace(first.profile, magnitudes=forecast, loss_scale=subject.loss_scale)
        first = replace(first, profile=profile)
    return first


def _with_learning(trial: Trial, criteria: Criteria, first: Look) -> tuple[Trial, Look]:
    """The look with what training on the batch comes to, where that is asked, found out once."""
    profile = first.profile
    if not trial.learn_steps or profile.objective == STAND_IN or not _trains(profile):
        return trial, first
    learning = trial.learning or learning_of(trial, criteria.limits, first)
    profile = replace(profile, learning=learning)
    return replace(trial, learning=learning), replace(first, profile=profile)


def _second_look(
    trial: Trial, criteria: Criteria, first: GradientProfile, flow: DataFlow
) -> GradientProfile:
    """A look after the confirm steps, or after more where they lead somewhere."""
    if trial.optimizer is None:
        trial = replace(trial, subject=replace(trial.subject, scale=leveling(first)))
    model = trial.subject.model
    second = _look_again(trial, first, flow, criteria.confirm_steps)
    findings = criteria.judge(first, second)
    waking = bool(first.asleep) and any(finding.complains for finding in findings)
    if not anywhere(model, criteria.may_yet_pass(findings) or waking):
        return second
    lost = [first.paths[f.path] for f in findings if f.path is not None and f.complains]
    if not anywhere(model, leads_on(trial, first, second, lost)):
        return second
    steps = max(criteria.confirm_steps, MORE_STEPS)
    least = math.log10(criteria.limits["warn_min_ratio"].value)
    losing = (path.first.label for path in first.judged_paths if path.vanishing < least)
    names = everywhere(model, [*losing])  # each takes a forward, and all processes the same ones
    lossy = [path for path in first.judged_paths if path.first.label in names]

    def after(steps: int) -> tuple[GradientProfile, bool]:
        look = _look_again(trial, first, flow, steps, lossy)
        return look, has_learned(trial, look)

    later, learned = after(steps)
    if anywhere(model, 0 < len(later.asleep) < len(first.asleep)):  # layer after layer wakes
        later, learned = after(2 * steps)
    elif anywhere(model, falls(first, later) and not learned):
        later, learned = after(4 * steps)
    if anywhere(model, not _is_finite(later)):
        return second
    return later if learned else replace(later, learned=())


def _without_rounding(trial: Trial, look: Look, faint: set[Key]) -> Look:
    """The same look, with zero for what only rounding has left of some gradients."""
    if is_sharded(trial.subject.model) or not anywhere(trial.subject.model, bool(faint)):
        return look
    outputs = faint & {*rounding(trial.subject, seed=trial.seed)}
    return look.silenced(outputs) if outputs else look


def _look_again(
    trial: Trial,
    first: GradientProfile,
    flow: DataFlow,
    steps: int,
    lossy: Sequence[GradientPath] = (),
) -> GradientProfile:
    """A look after some steps, at what is known of the first one's layers."""
    look = look_after_steps(
        trial.subject, trial.optimizer, first, seed=trial.seed, steps=steps, lossy=lossy
    )
    look = _along(replace(look, profile=with_reasons_of(first, look.profile)), flow)
    return (look if _is_finite(look.profile) else look.marked(SOMEWHERE)).profile


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


def _with_missing(profile: GradientProfile, inputs: object) -> GradientProfile:
    """Leave out the size of outputs that are NaN where inputs are: values that are missing."""
    missing = [o.activation is not None and math.isnan(o.activation) for o in profile.outputs]
    if not any(missing) or not holds_nan(inputs):
        return profile
    pairs = zip(profile.outputs, missing, strict=True)
    return replace(
        profile, outputs=tuple(replace(o, activation=None) if m else o for o, m in pairs)
    )


def _trains(profile: GradientProfile) -> bool:
    """Whether steps can be made: some gradient is there, and none would leave weights of NaN.

    Where not, no error in such steps says more than this look.
    """
    gradients = [p.gradient for p in profile.parameters if p.gradient is not None]
    return bool(gradients) and all(map(math.isfinite, [profile.loss, *gradients]))


def _is_finite(profile: GradientProfile) -> bool:
    numbers = [profile.loss]
    numbers += [output.norm for output in profile.outputs if output.norm is not None]
    numbers += [p.gradient for p in profile.parameters if p.gradient is not None]
    return all(map(math.isfinite, numbers))

"""From a model and a batch to a verdict: looks, seeds, rules and the confirm step."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from pytest_gradhealth.blame import first_non_finite
from pytest_gradhealth.calling import Loss, check_numbers
from pytest_gradhealth.carriers import data_carriers
from pytest_gradhealth.confirm import copied, look_after_steps
from pytest_gradhealth.distributed import agreed, anywhere, everywhere
from pytest_gradhealth.findings import RANK, Diagnosis, Finding, Limit, verdict_of
from pytest_gradhealth.influence import without_influence
from pytest_gradhealth.isolation import isolated
from pytest_gradhealth.limits import leaves_doubt, limits_of
from pytest_gradhealth.modes import as_trained
from pytest_gradhealth.optimizers import OptimizerLike, build
from pytest_gradhealth.precision import magnitudes
from pytest_gradhealth.records import SOMEWHERE, GradientProfile, Update
from pytest_gradhealth.rules import Evidence, Rule, built_in_rules
from pytest_gradhealth.rules.exploding import scale_free_weights
from pytest_gradhealth.rules.rule import without_echoes
from pytest_gradhealth.settings import Settings, check_codes, is_selected
from pytest_gradhealth.step import Clip, Regularizer, Step
from pytest_gradhealth.through_time import look_through_time
from pytest_gradhealth.training import updates
from pytest_gradhealth.trial import Case, ModelLike, Trial, check_case, prepare
from pytest_gradhealth.wrappers import class_name

#: L2 norm of the gradient at the loss in the steps before the second look, about that of a mean
#: cross entropy over a hundred examples.
LEVEL = 0.1
#: How many seeds are tried at most where one leaves doubt.
MOST_SEEDS = 5

#: How many of the user's training steps are made where they are judged.
UPDATE_STEPS = 10


@dataclass(frozen=True)
class Origin:
    """What a diagnosis was made of, for whoever wants to try something on it.

    `rank` is the process it was made in, where several share the model; `talks` says whether that
    one waits for the others in its forward.
    """

    case: Case
    settings: Settings
    rules: tuple[Rule, ...]
    rank: int | None = None
    talks: bool = False


def declared_step(clip: Clip | None, regularizer: Regularizer | None) -> Step | None:
    """The training step, None if nothing of it was declared."""
    return None if clip is None and regularizer is None else Step(clip, regularizer)


def probe(
    model: ModelLike,
    inputs: Any,
    targets: Any = None,
    *,
    loss: Loss | None = None,
    optimizer: OptimizerLike | None = None,
    clip: Clip | None = None,
    regularizer: Regularizer | None = None,
    dependency: int | None = None,
    precision: str | torch.dtype | None = None,
    loss_scale: Any = None,
    device: str | torch.device | None = None,
    seeds: int | Sequence[int] | None = None,
    confirm_steps: int = 5,
    min_ratio: float | None = None,
    max_ratio: float | None = None,
    warn_min_ratio: float | None = None,
    warn_max_ratio: float | None = None,
    max_update: float | None = None,
    max_penalty: float | None = None,
    max_output: float | None = None,
    min_spread: float | None = None,
    max_dead: float | None = None,
    max_saturated: float | None = None,
    max_underflow: float | None = None,
    select: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
    rules: Sequence[Rule] = (),
) -> Diagnosis:
    """Measure the gradient from the loss back to the first layer and judge it.

    `model`: a module, or a factory that builds one (then more seeds are tried where one does not
    decide). `inputs`: what the model is called with; a tuple is spread over its arguments, a
    mapping over its keywords. `loss(outputs, targets)`; without it the model's own loss is used,
    else a fixed random cotangent of unit norm. `optimizer`: a class, a factory over parameters, or
    an instance (which is never stepped); it sets the limits and makes the confirm steps (default
    Adam, lr 1e-3). `clip` (a gradient norm, or a function of the parameters) and `regularizer` (a
    function of the model) complete the training step; with one of them a few steps are made on a
    copy and judged too. `dependency`: how many steps back in time the gradient of a recurrent model
    has to reach (GH102). `precision`: "float16" or "bfloat16", for a forecast of what that flushes
    (GH501) where the loss is multiplied by `loss_scale`, a number or a GradScaler. `device`:
    "auto", or a device. `seeds`: how many, or which. `confirm_steps`: 5; with 0 a failing first
    look stands. The ratios are limits on the gradient's L2 norm, first layer over last;
    `max_update` on a step's change of a weight over the weight; `max_penalty` on the gradient of
    the penalty over that of the loss; `max_output` on the RMS of the outputs, `min_spread` on how
    far they differ over the batch; `max_dead` and `max_saturated` on shares of a layer's units;
    `max_underflow` on the flushed share of a layer's gradient. `rules` come on top of the package's
    own.

    Model, batch, random numbers and modes are left as they were. Raises ProbeError for what cannot
    be probed.
    """
    settings = Settings().merged(
        {
            "device": None if device is None else str(device),
            "seeds": seeds,
            "confirm_steps": confirm_steps,
            "min_ratio": min_ratio,
            "max_ratio": max_ratio,
            "warn_min_ratio": warn_min_ratio,
            "warn_max_ratio": warn_max_ratio,
            "max_update": max_update,
            "max_penalty": max_penalty,
            "max_output": max_output,
            "min_spread": min_spread,
            "max_dead": max_dead,
            "max_saturated": max_saturated,
            "max_underflow": max_underflow,
            "select": select,
            "ignore": ignore,
        },
        "the call",
    )
    step = declared_step(clip, regularizer)
    case = Case(model, inputs, targets, loss, optimizer, step, dependency, precision, loss_scale)
    return agreed(model, lambda: diagnose(case, settings, (*built_in_rules(), *rules)))


def diagnose(
    case: Case, settings: Settings, rules: Sequence[Rule], base_seed: int = 0
) -> Diagnosis:
    """Probe a case under as many seeds as it takes and apply the selected rules."""
    started = time.perf_counter()
    check_codes(settings, [rule.code for rule in rules])
    chosen = [rule for rule in rules if is_selected(rule.code, settings)]
    check_case(case)
    profiles: list[GradientProfile] = []
    findings: list[Finding] = []
    for seed in _seeds(case, settings, base_seed):
        trial = prepare(case, settings, seed)
        limits = limits_of(settings, sgd=trial.kind.sgd, eps=_eps(trial))
        examination = partial(examine, trial, settings.confirm_steps, chosen, limits)
        looks, found = as_trained(trial.subject, examination)
        profiles += looks
        findings = _with_news(findings, found)
        if verdict_of(findings) == "failure" or not _goes_on(case, settings, looks[0], limits):
            break
    return Diagnosis(
        model=class_name(trial.subject.model),
        verdict=verdict_of(findings),
        findings=tuple(sorted(findings, key=lambda finding: RANK[finding.severity])),
        profiles=tuple(profiles),
        device=str(trial.subject.device),
        optimizer=str(trial.kind),
        sgd=trial.kind.sgd,
        confirm_steps=settings.confirm_steps,
        limits=limits,
        milliseconds=1e3 * (time.perf_counter() - started),
        origin=Origin(case, settings, tuple(chosen)),
    )


def judge(rules: Iterable[Rule], evidence: Evidence) -> tuple[Finding, ...]:
    """Apply rules to what was measured."""
    rules = tuple(rules)
    found = [finding for rule in rules for finding in rule.check(evidence) or ()]
    return without_echoes(rules, found)


def judge_again(
    diagnosis: Diagnosis, rules: Iterable[Rule], limits: Mapping[str, Limit]
) -> tuple[Diagnosis, bool]:
    """Judge what was measured against other limits.

    Also says whether that leaves a failure that no second look has confirmed.
    """
    rules = tuple(rules)
    findings: list[Finding] = []
    unconfirmed = False
    for seed in diagnosis.seeds:
        first, *more = diagnosis.looks(seed)
        evidence = Evidence(first, more[0] if more else None, limits)
        found = judge(rules, evidence)
        findings = _with_news(findings, found)
        unconfirmed |= not more and _in_doubt(rules, found)
    findings.sort(key=lambda finding: RANK[finding.severity])
    changed = replace(
        diagnosis, findings=tuple(findings), verdict=verdict_of(findings), limits=limits
    )
    return changed, unconfirmed


def _with_news(known: Sequence[Finding], found: Sequence[Finding]) -> list[Finding]:
    """Add what another seed found, but for what is the same thing again."""

    def thing(finding: Finding) -> tuple[object, ...]:
        where = finding.layer if finding.path is None else finding.path
        return finding.code, finding.severity, where

    seeds = {finding.seed for finding in known}
    things = {thing(finding) for finding in known}
    return [*known, *(f for f in found if f.seed in seeds or thing(f) not in things)]


def _eps(trial: Trial) -> Limit | None:
    """The eps of an optimizer that the caller has declared, where it has one."""
    eps = trial.kind.eps
    return None if trial.optimizer is None or not eps else Limit(eps, f"eps of {trial.kind.name}")


def _seeds(case: Case, settings: Settings, base: int) -> Iterator[int]:
    """The seeds to try, in order; a built model is what it is under one."""
    if isinstance(settings.seeds, tuple):
        yield from settings.seeds if case.is_factory else settings.seeds[:1]
    elif case.is_factory:
        yield from range(base, base + (settings.seeds or MOST_SEEDS))
    else:
        yield base


def _goes_on(
    case: Case, settings: Settings, first: GradientProfile, limits: Mapping[str, Limit]
) -> bool:
    """Whether another seed is worth its time: asked for, or this one leaves doubt."""
    return case.is_factory and (settings.seeds is not None or leaves_doubt(first, limits))


def examine(
    trial: Trial, confirm_steps: int, rules: Sequence[Rule], limits: Mapping[str, Limit]
) -> tuple[list[GradientProfile], tuple[Finding, ...]]:
    """Look under one seed, again where a rule wants to be sure, and judge."""
    subject, seed = trial.subject, trial.seed
    with isolated(subject.modules, subject.device):
        first = look_through_time(subject, seed=seed)
    if trial.makes_steps:
        made = _updates(trial, first.profile)
        first = replace(first, profile=replace(first.profile, updates=made))
    if anywhere(subject.model, not _is_finite(first.profile)):
        check_numbers(subject.inputs)
        with isolated(subject.modules, subject.device):
            bad = first_non_finite(subject, seed=seed)
        if not _is_finite(first.profile):
            first = first.marked(bad or SOMEWHERE)
    first = replace(first, profile=_with_ignored(trial, first.profile))
    if subject.loss_scale.format:
        with isolated(subject.modules, subject.device):
            forecast = magnitudes(subject, seed=seed)
        profile = replace(first.profile, magnitudes=forecast, loss_scale=subject.loss_scale)
        first = replace(first, profile=profile)
    findings = judge(rules, Evidence(first.profile, None, limits))
    doubt = _in_doubt(rules, findings)
    on_paths = any(f.path is not None and f.severity != "info" for f in findings)
    if not anywhere(subject.model, doubt or on_paths):
        return [first.profile], findings

    carriers = None
    if anywhere(subject.model, len(first.profile.judged_paths) > 1):
        with isolated(subject.modules, subject.device):
            carriers = data_carriers(subject, seed=seed)
    if carriers is not None:
        first = first.restricted_to(carriers)
        findings = judge(rules, Evidence(first.profile, None, limits))
    if not confirm_steps or not anywhere(subject.model, _in_doubt(rules, findings)):
        return [first.profile], findings

    if trial.optimizer is None:
        subject = replace(subject, scale=_leveling(first.profile))
    second = look_after_steps(subject, trial.optimizer, seed=seed, steps=confirm_steps)
    ignored = {output.name for output in first.profile.outputs if output.state == "ignored"}
    second = replace(second, profile=_marked_ignored(second.profile, ignored))
    if carriers is not None:
        second = second.restricted_to(carriers)
    if not _is_finite(second.profile):
        second = second.marked(SOMEWHERE)
    evidence = Evidence(first.profile, second.profile, limits)
    return [first.profile, second.profile], judge(rules, evidence)


def _updates(trial: Trial, profile: GradientProfile) -> tuple[Update, ...]:
    """Make some of the user's training steps on a copy."""
    subject = trial.subject
    exempt = scale_free_weights(profile)
    with isolated(subject.modules, subject.device):
        twin, optimizer = copied(subject, trial.optimizer, subject.device)
        stepper = build(optimizer, [p for p in twin.model.parameters() if p.requires_grad])
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
    with isolated(subject.modules, subject.device):
        return _marked_ignored(profile, without_influence(subject, names, seed=trial.seed))


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


def _in_doubt(rules: Sequence[Rule], findings: Sequence[Finding]) -> bool:
    return any(rule.wants_second_look(_of(rule, findings)) for rule in rules)


def _is_finite(profile: GradientProfile) -> bool:
    numbers = [profile.loss]
    numbers += [output.norm for output in profile.outputs if output.norm is not None]
    numbers += [p.gradient for p in profile.parameters if p.gradient is not None]
    return all(map(math.isfinite, numbers))


def _of(rule: Rule, findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.code == rule.code]

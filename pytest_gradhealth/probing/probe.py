"""From a model and a batch to a verdict, under as many seeds as it takes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from pytest_gradhealth.config.arguments import called
from pytest_gradhealth.config.options import OPTIONS
from pytest_gradhealth.config.settings import Settings
from pytest_gradhealth.context import called_from, current
from pytest_gradhealth.distributed.team import agreed
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.probing.case import Case, ModelLike, check_case
from pytest_gradhealth.probing.eval_mode import Examined, as_trained
from pytest_gradhealth.probing.examine import examine
from pytest_gradhealth.probing.ignored import check_patterns
from pytest_gradhealth.probing.judge import Criteria, chosen_rules, with_news, worst_first
from pytest_gradhealth.probing.placement import where_it_runs
from pytest_gradhealth.probing.prepare import Trial, prepare
from pytest_gradhealth.probing.refusal import refused
from pytest_gradhealth.probing.thresholds import leaves_doubt, limits_of
from pytest_gradhealth.results.diagnosis import Diagnosis, Finding, Limit, verdict_of
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules import Rule, built_in_rules
from pytest_gradhealth.rules.rule import checked, own_rules, own_settings
from pytest_gradhealth.subject.calling import Call
from pytest_gradhealth.subject.inputs import check_inputs
from pytest_gradhealth.subject.loss import Loss
from pytest_gradhealth.subject.step import Clip, Regularizer, Step
from pytest_gradhealth.tensors.modules import class_name
from pytest_gradhealth.training.optimizers import OptimizersLike

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pytest_gradhealth.config.options import ProbeValues

#: How many seeds are tried at most where one leaves doubt.
MOST_SEEDS = 5


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


@called
def probe(
    model: ModelLike,
    inputs: Any,
    targets: Any = None,
    *,
    loss: Loss | None = None,
    call: Call | None = None,
    optimizer: OptimizersLike | None = None,
    clip: Clip | None = None,
    regularizer: Regularizer | None = None,
    dependency: int | None = None,
    precision: str | torch.dtype | None = None,
    loss_scale: Any = None,
    rules: Sequence[Rule] = (),
    **settings: Unpack[ProbeValues],
) -> Diagnosis:
    """Measure the gradient from the loss back to the first layer and judge it.

    `model`: a module, or a factory that builds one (then more seeds are tried in doubt). `inputs`:
    what the model is called with; a tuple is spread over its arguments, a mapping over its
    keywords. `loss(outputs, targets)`; without it the model's own loss is used, else a fixed random
    cotangent of unit norm. `call(model, *inputs)` takes the place of the forward, for models
    without one. `optimizer`: a class, a factory over parameters, an instance or several in a list
    (never stepped); it sets the limits, makes the confirm steps (default Adam, lr 1e-3), has to
    hold what gets a gradient (GH602) and must not step too far (GH603). `clip` (a gradient norm, or
    a function of the parameters) and `regularizer` (a function of the model) complete the training
    step; with one of them a few steps are made on a copy and judged too. `dependency`: how many
    steps back in time the gradient of a recurrent model has to reach (GH102). `precision`:
    "float16" or "bfloat16", for a forecast of what that flushes (GH501) where the loss is
    multiplied by `loss_scale`, a number or a GradScaler. `device`: "auto" (an accelerator, if it
    runs on one), or one by name. `seeds`: how many, or which. `confirm_steps`: 5; with 0 a failing
    first look stands. `copy`: whether all is copied before a run, also where a copy can be made
    once something writes; `exact`: whether norms that no verdict depends on are taken of all of a
    large tensor. `baseline_init`: whether to keep how parameters are distributed. `learn_steps`: in
    how many training steps, on a copy, the batch has to be learned (GH604). The ratios are limits
    on the gradient's L2 norm, first layer over last; `max_update` on a step's change of a weight
    over the weight; `max_penalty` on the gradient of the penalty over that of the loss; `max_rate`
    on the learning rate over the critical one; `max_output` on the RMS of the outputs, `min_spread`
    on how far they differ over the batch; `max_dead` and `max_saturated` on shares of a layer's
    units; `max_underflow` on the flushed share of a layer's gradient. `rules` come on top of ours.

    Model, batch, random numbers and modes are left as they were. Raises ProbeError for what cannot
    be probed.
    """
    __tracebackhide__ = True
    step = declared_step(clip, regularizer)
    case = Case(
        model, inputs, targets, loss, optimizer, step, dependency, precision, loss_scale, call
    )
    try:
        every = checked((*built_in_rules(), *own_rules(rules)))
        options = [option for option in OPTIONS if option.use != "test"]
        chosen = Settings().merged(settings, "the call", (*options, *own_settings(every)))
        diagnosis = agreed(model, lambda: diagnose(case, chosen, every))
    except ProbeError as error:
        raise refused(error) from error.__cause__
    context = current()
    if context is not None:
        context.heard.probed(diagnosis, called_from())
    return diagnosis


def diagnose(
    case: Case, settings: Settings, rules: Sequence[Rule], base_seed: int = 0
) -> Diagnosis:
    """Probe a case under as many seeds as it takes and apply the selected rules."""
    started = time.perf_counter()
    chosen = chosen_rules(settings, rules)
    check_case(case)
    check_inputs(case.inputs)
    profiles: list[GradientProfile] = []
    findings: list[Finding] = []
    for seed in _seeds(case, settings, base_seed):
        trial = prepare(case, settings, seed)
        limits = limits_of(settings, rules, sgd=trial.kind.sgd, eps=_eps(trial))
        criteria = Criteria.of(settings, chosen, limits)
        device, (looks, found) = where_it_runs(trial, partial(_examined, criteria))
        profiles += looks
        findings = with_news(findings, found)
        if verdict_of(findings) == "failure" or not _goes_on(case, settings, looks[0], limits):
            break
    check_patterns(settings, profiles)
    return Diagnosis(
        model=class_name(trial.subject.model),
        verdict=verdict_of(findings),
        findings=worst_first(findings),
        profiles=tuple(profiles),
        device=device,
        optimizer=str(trial.kind),
        sgd=trial.kind.sgd,
        confirm_steps=settings.confirm_steps,
        limits=limits,
        milliseconds=1e3 * (time.perf_counter() - started),
        origin=Origin(case, settings.merged({"device": device}, "the probe"), chosen),
        eager=trial.eager,
        format=trial.format,
    )


def _examined(criteria: Criteria, trial: Trial) -> tuple[str, Examined]:
    """The device of a trial, and what comes of it."""
    subject = trial.subject
    examined = as_trained(subject, criteria.rules, partial(examine, trial, criteria))
    return str(subject.device), examined


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

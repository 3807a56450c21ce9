"""From a model and a batch to a verdict: looks, seeds, rules and the confirm step."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from pytest_gradhealth.blame import first_non_finite
from pytest_gradhealth.calling import Loss, check_inputs
from pytest_gradhealth.capture import Subject, look
from pytest_gradhealth.carriers import data_carriers
from pytest_gradhealth.confirm import copied, look_after_steps
from pytest_gradhealth.devices import choose_device, device_of
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.isolation import isolated, seed_everything
from pytest_gradhealth.limits import leaves_doubt, limits_of
from pytest_gradhealth.optimizers import Kind, OptimizerLike, check_belongs, kind_of
from pytest_gradhealth.records import (
    RANK,
    Diagnosis,
    Finding,
    GradientProfile,
    Limit,
    NonFinite,
    verdict_of,
)
from pytest_gradhealth.rules import Evidence, Rule, built_in_rules
from pytest_gradhealth.settings import Settings, check_codes, is_selected

ModelLike = nn.Module | Callable[[], nn.Module]

#: How many seeds are tried at most where one leaves doubt.
MOST_SEEDS = 5


#: For a NaN that a second run does not show again.
SOMEWHERE = NonFinite("backward", "(loss)", "", "nan")


@dataclass(frozen=True)
class Case:
    """What the caller handed over: a model or a factory, a batch, a loss and an optimizer."""

    model: ModelLike
    inputs: Any
    targets: Any = None
    loss: Loss | None = None
    optimizer: OptimizerLike | None = None

    @property
    def is_factory(self) -> bool:
        """Whether the model is built anew for every seed."""
        return not isinstance(self.model, nn.Module)


def probe(
    model: ModelLike,
    inputs: Any,
    targets: Any = None,
    *,
    loss: Loss | None = None,
    optimizer: OptimizerLike | None = None,
    device: str | torch.device | None = None,
    seeds: int | Sequence[int] | None = None,
    confirm_steps: int = 5,
    min_ratio: float | None = None,
    max_ratio: float | None = None,
    warn_min_ratio: float | None = None,
    warn_max_ratio: float | None = None,
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
    Adam, lr 1e-3). `device`: "auto", or a device. `seeds`: how many, or which. `confirm_steps`: 5;
    with 0 a failing first look stands. The ratios are limits on the gradient's L2 norm, first
    layer over last. `rules` come on top of the package's own.

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
            "select": select,
            "ignore": ignore,
        },
        "the call",
    )
    case = Case(model, inputs, targets, loss, optimizer)
    return diagnose(case, settings, (*built_in_rules(), *rules))


def diagnose(
    case: Case, settings: Settings, rules: Sequence[Rule], base_seed: int = 0
) -> Diagnosis:
    """Probe a case under as many seeds as it takes and apply the selected rules."""
    started = time.perf_counter()
    check_codes(settings, [rule.code for rule in rules])
    chosen = [rule for rule in rules if is_selected(rule.code, settings)]
    _check_case(case)
    profiles: list[GradientProfile] = []
    findings: list[Finding] = []
    for seed in _seeds(case, settings, base_seed):
        trial = _trial(case, settings, seed)
        limits = limits_of(settings, sgd=trial.kind.sgd)
        looks, found = _examine(trial, settings.confirm_steps, chosen, limits)
        profiles += looks
        findings = _with_news(findings, found)
        if verdict_of(findings) == "failure" or not _goes_on(case, settings, looks[0], limits):
            break
    return Diagnosis(
        model=type(trial.subject.model).__name__,
        verdict=verdict_of(findings),
        findings=tuple(sorted(findings, key=lambda finding: RANK[finding.severity])),
        profiles=tuple(profiles),
        device=str(trial.subject.device),
        optimizer=str(trial.kind),
        sgd=trial.kind.sgd,
        confirm_steps=settings.confirm_steps,
        limits=limits,
        milliseconds=1e3 * (time.perf_counter() - started),
    )


def judge(rules: Iterable[Rule], evidence: Evidence) -> tuple[Finding, ...]:
    """Apply rules to what was measured."""
    return tuple(finding for rule in rules for finding in rule.check(evidence))


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
        for rule in rules:
            found = tuple(rule.check(evidence))
            findings = _with_news(findings, found)
            unconfirmed |= not more and rule.wants_second_look(found)
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


@dataclass(frozen=True)
class _Trial:
    """A model under one seed, and the caller's own modules among what a look may touch."""

    subject: Subject
    optimizer: OptimizerLike | None
    kind: Kind
    owned: tuple[nn.Module, ...]
    seed: int


def _examine(
    trial: _Trial, confirm_steps: int, rules: Sequence[Rule], limits: Mapping[str, Limit]
) -> tuple[list[GradientProfile], tuple[Finding, ...]]:
    """Look under one seed, again where a rule wants to be sure, and judge."""
    subject, seed = trial.subject, trial.seed
    with _eager(), isolated(trial.owned, subject.device):
        first = look(subject, seed=seed)
    if not _is_finite(first.profile):
        with _eager(), isolated(trial.owned, subject.device):
            bad = first_non_finite(subject, seed=seed)
        first = first.marked(bad or SOMEWHERE)
    findings = judge(rules, Evidence(first.profile, None, limits))
    if not _in_doubt(rules, findings):
        return [first.profile], findings

    carriers = None
    if len(first.profile.judged_paths) > 1:
        with _eager(), isolated(trial.owned, subject.device):
            carriers = data_carriers(subject, seed=seed)
    if carriers is not None:
        first = first.restricted_to(carriers)
        findings = judge(rules, Evidence(first.profile, None, limits))
    if not confirm_steps or not _in_doubt(rules, findings):
        return [first.profile], findings

    with _eager():
        second = look_after_steps(subject, trial.optimizer, seed=seed, steps=confirm_steps)
    if carriers is not None:
        second = second.restricted_to(carriers)
    if not _is_finite(second.profile):
        second = second.marked(SOMEWHERE)
    evidence = Evidence(first.profile, second.profile, limits)
    return [first.profile, second.profile], judge(rules, evidence)


def _in_doubt(rules: Sequence[Rule], findings: Sequence[Finding]) -> bool:
    return any(rule.wants_second_look(_of(rule, findings)) for rule in rules)


def _trial(case: Case, settings: Settings, seed: int) -> _Trial:
    """Build or take the model, on the device to probe on."""
    model = case.model if isinstance(case.model, nn.Module) else _built(case.model, seed)
    model = getattr(model, "_orig_mod", model)
    check_model(model)
    check_belongs(case.optimizer, model)
    kind = kind_of(case.optimizer, [p for p in model.parameters() if p.requires_grad])
    device = choose_device(settings.device, model, settings.source("device"))
    subject = Subject(model, case.inputs, case.targets, case.loss, device)
    on_device = all(m is None or m.type == device.type for m in map(device_of, subject.modules))
    if on_device and (device.type == "cpu" or device_of(model) == device):
        return _Trial(subject, case.optimizer, kind, subject.modules, seed)
    with isolated(subject.modules, device):
        twin, optimizer = copied(subject, case.optimizer, device)
    return _Trial(twin, optimizer, kind, (), seed)


def _built(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    cpu = torch.device("cpu")
    accelerator = (
        torch.accelerator.current_accelerator() if torch.accelerator.is_available() else cpu
    )
    device = accelerator or cpu
    with isolated([], device):
        seed_everything(seed, device)
        try:
            model = factory()
        except Exception as error:
            name = getattr(factory, "__name__", type(factory).__name__)
            raise ProbeError(
                f"the model factory {name} raised {type(error).__name__}: {error}; a factory is"
                " called without arguments, for example lambda: Net(width=64)"
            ) from error
    if not isinstance(model, nn.Module):
        raise ProbeError(
            f"the model factory returned a {type(model).__name__}, not a torch.nn.Module"
        )
    return model


def _check_case(case: Case) -> None:
    if not callable(case.model):
        raise ProbeError(
            f"model is a {type(case.model).__name__}; pass a torch.nn.Module, or a function"
            " without arguments that builds one"
        )
    if case.loss is not None and not callable(case.loss):
        raise ProbeError(
            f"loss is a {type(case.loss).__name__}; pass a function of outputs and targets, for"
            " example torch.nn.functional.cross_entropy"
        )
    if isinstance(case.optimizer, Optimizer) and case.is_factory:
        raise ProbeError(
            "optimizer is an instance, but the model is built anew for every seed; pass the"
            " optimizer's class or a factory"
        )
    check_inputs(case.inputs)


def check_model(model: nn.Module) -> None:
    """Raise ProbeError for a model that cannot get a gradient as it is."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ProbeError(
            f"{type(model).__name__} holds a ScriptModule, which takes no hooks; pass the model as"
            " it was before torch.jit.script or torch.jit.trace"
        )
    tensors = [*model.named_parameters(), *model.named_buffers()]
    lazy = [name for name, tensor in tensors if is_lazy(tensor)]
    if lazy:
        kind = "parameter" if lazy[0] in dict(model.named_parameters()) else "buffer"
        raise ProbeError(
            f"{lazy[0]} is a lazy {kind} without a shape; call the model once on a batch"
            " before the probe"
        )
    empty = [name for name, tensor in tensors if tensor.is_meta]
    if empty:
        raise ProbeError(
            f"{empty[0]} is on the meta device and holds no numbers; materialise the model first,"
            " for example with model.to_empty(device='cpu') and its initialisation"
        )
    frozen_for_good = [name for name, p in model.named_parameters() if p.is_inference()]
    if frozen_for_good:
        raise ProbeError(
            f"{frozen_for_good[0]} was made in inference mode and can never get a gradient; build"
            " the model outside torch.inference_mode()"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ProbeError(
            f"no parameter of {type(model).__name__} requires grad; call"
            " model.requires_grad_(True), or pass the model before it is frozen"
        )


def _is_finite(profile: GradientProfile) -> bool:
    numbers = [profile.loss]
    numbers += [output.norm for output in profile.outputs if output.norm is not None]
    numbers += [p.gradient for p in profile.parameters if p.gradient is not None]
    return all(map(math.isfinite, numbers))


def _of(rule: Rule, findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.code == rule.code]


@contextmanager
def _eager() -> Iterator[None]:
    """Run compiled submodules as they were written; only where something was compiled."""
    compiled = "torch._dynamo" in sys.modules
    with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
        yield

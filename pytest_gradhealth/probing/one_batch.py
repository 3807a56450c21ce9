"""Whether the batch of a trial can be learned and, if not, what the rules see in the copy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial

import torch

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.measure.batch import batch_record
from pytest_gradhealth.measure.learned import learned
from pytest_gradhealth.measure.paths import loops_crossed
from pytest_gradhealth.measure.reading import Look
from pytest_gradhealth.measure.recurrence import look_through_time
from pytest_gradhealth.probing.judge import Criteria
from pytest_gradhealth.probing.prepare import Trial
from pytest_gradhealth.probing.reasons import with_stops
from pytest_gradhealth.probing.second_look import leveling
from pytest_gradhealth.results.diagnosis import RANK, Finding, Limit
from pytest_gradhealth.results.learning import Cure, Learning, Reason
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules import built_in_rules, rule_of
from pytest_gradhealth.rules.unlearned import AFTERWARDS, ASKED, ON_PATHS
from pytest_gradhealth.rules.unlearned_causes import rates_to_try
from pytest_gradhealth.tensors.modules import waits_for_others
from pytest_gradhealth.training.memory import check_room
from pytest_gradhealth.training.twin import twin_of
from pytest_gradhealth.training.typed import rates_of, typed

#: What is tried where nobody has declared an optimizer, and ours does not learn the batch.
GENTLER = partial(torch.optim.Adam, lr=1e-4)
#: What a group keeps of its learning rate.
RATES = ("lr", "initial_lr")


def learning_of(trial: Trial, limits: Mapping[str, Limit], first: Look) -> Learning:
    """Train a copy on the batch and, where that is not learned, ask the other rules why.

    Where no optimizer is declared, ours may have too large a learning rate, and a smaller one will
    do.

    Raises ProbeError if the model, the loss or the optimizer fails on the way, there is no room for
    the copy, or its forward waits for other processes, which may need more steps.
    """
    subject = trial.subject
    if waits_for_others(subject.model):
        raise ProbeError(
            "whether a batch can be learned is not measured on a model whose forward waits for"
            " other processes; probe it in one process"
        )
    if trial.optimizer is None:
        subject = replace(subject, scale=leveling(first.profile))
    check_room(subject.modules, trial.optimizer, subject.device)
    trial = replace(trial, subject=subject)
    found = _trained(trial, limits, first)
    if trial.optimizer is not None:
        return _with_cure(trial, found)
    if found.course in ("stuck", "rising", "not finite"):
        with suppress(ProbeError):  # of gradients that are sparse, say
            gentler = _trained(replace(trial, optimizer=GENTLER), limits, first)
            found = gentler if gentler.course == "learned" else found
    return found


def _with_cure(trial: Trial, found: Learning) -> Learning:
    """What was found, with the first other learning rate that learns the batch, if one does."""
    tried = rates_to_try(found)
    for times in tried:
        with suppress(ProbeError), twin_of(trial.subject, trial.optimizer) as (twin, stepper):
            if not any(rates_of(stepper)):
                return found
            for group in stepper.param_groups:
                group |= {name: times * group[name] for name in RATES if group.get(name)}
            again = learned(
                twin, stepper, trial.subject.model, seed=trial.seed, steps=trial.learn_steps
            )
            if again.course == "learned":
                call = typed(stepper).format(f"{min(rates_of(stepper), default=0.0):g}")
                return replace(found, tried=tried, cure=Cure(times, len(again.losses), call))
    return replace(found, tried=tried)


def _trained(trial: Trial, limits: Mapping[str, Limit], first: Look) -> Learning:
    subject, seed = trial.subject, trial.seed
    with twin_of(subject, trial.optimizer) as (twin, stepper):
        found = learned(twin, stepper, subject.model, seed=seed, steps=trial.learn_steps)
        if found.course in ("learned", "not finite"):
            return found
        after = look_through_time(twin, seed=seed, steps=len(found.losses)).profile
    reason = _reason(trial, limits, first, after)
    return replace(found, reason=reason, batch=batch_record(subject))


def _reason(
    trial: Trial, limits: Mapping[str, Limit], first: Look, after: GradientProfile
) -> Reason | None:
    """What another rule finds in the model and still in the copy, or else in that alone."""
    crossed = any(loops_crossed(first.network))
    rules = [
        rule_of(code, built_in_rules()) for code in ASKED if not (crossed and code in ON_PATHS)
    ]
    given = first.profile
    found = _complaints(Criteria(rules, limits).judge(given))
    if found:
        suspects = [rule for rule in rules if rule.code in {f.code for f in found}]
        found = _complaints(Criteria(suspects, limits).judge(given, after))
        seen = with_stops(trial.subject, given, found, seed=trial.seed)
    if not found:
        afterwards = [rule for rule in rules if rule.code in AFTERWARDS]
        found, seen = _complaints(Criteria(afterwards, limits).judge(after)), after
    if not found:
        return None
    worst = min(found, key=lambda f: (RANK[f.severity], ASKED.index(f.code)))
    cause = rule_of(worst.code, rules).explain(worst, seen)
    words = ("", "") if cause is None else (cause.because, cause.advice)
    fails = worst.severity == "failure"
    return Reason(worst.code, worst.message, *words, fails=fails, steps=seen.steps)


def _complaints(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.complains]

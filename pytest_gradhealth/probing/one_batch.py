"""Whether the batch of a trial can be learned and, if not, what the rules see in the copy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

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
from pytest_gradhealth.results.learning import Learning, Reason
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules import built_in_rules, rule_of
from pytest_gradhealth.rules.unlearned import AFTERWARDS, ASKED, ON_PATHS
from pytest_gradhealth.tensors.modules import waits_for_others
from pytest_gradhealth.training.copies import copied
from pytest_gradhealth.training.loop import optimizer_for
from pytest_gradhealth.training.memory import check_room
from pytest_gradhealth.training.rebinding import explained


def learning_of(trial: Trial, limits: Mapping[str, Limit], first: Look) -> Learning:
    """Train a copy on the batch and, where that is not learned, ask the other rules why.

    Raises ProbeError if the model, the loss or the optimizer fails on the way, there is no room for
    the copy, or its forward waits for other processes, which may need more steps.
    """
    subject, seed = trial.subject, trial.seed
    if waits_for_others(subject.model):
        raise ProbeError(
            "whether a batch can be learned is not measured on a model whose forward waits for"
            " other processes; probe it in one process"
        )
    if trial.optimizer is None:
        subject = replace(subject, scale=leveling(first.profile))
    check_room(subject.modules, trial.optimizer, subject.device)
    with subject.isolated(trial.optimizer):
        twin, optimizer = copied(subject, trial.optimizer, subject.device)
        stepper = optimizer_for(twin, optimizer)
        with explained(subject.model, twin.model):
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

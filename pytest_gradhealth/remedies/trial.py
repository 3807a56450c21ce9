"""Remedies, tried: each changes a copy of a failing model, which is probed and trained for a bit.

A remedy has cured a model if the rule that failed passes on the copy, under the same seed on the
same batch, and the loss falls in a short training on that batch, further than the best constant
answer would bring it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from pytest_gradhealth.config.arguments import listed, require
from pytest_gradhealth.config.options import BY_NAME
from pytest_gradhealth.config.settings import parse
from pytest_gradhealth.errors import CannotApplyError, ProbeError
from pytest_gradhealth.formatting import text_of, told
from pytest_gradhealth.isolation.random_state import seed_everything
from pytest_gradhealth.measure.constant_predictor import constant_answer
from pytest_gradhealth.probing.examine import examine
from pytest_gradhealth.probing.judge import Criteria
from pytest_gradhealth.probing.placement import placed
from pytest_gradhealth.probing.prepare import Trial, prepare
from pytest_gradhealth.probing.probe import Origin
from pytest_gradhealth.remedies import Patient, Remedy, built_in_remedies
from pytest_gradhealth.remedies.clock import Clock
from pytest_gradhealth.remedies.outcome import (
    Comparison,
    Examined,
    is_clear,
    learns,
    measure_of,
    merit,
    outcome_of,
)
from pytest_gradhealth.results.diagnosis import Diagnosis, Finding, Measure, Outcome, Treatment
from pytest_gradhealth.rules import rule_of
from pytest_gradhealth.rules.rule import Rule
from pytest_gradhealth.subject.forward import fresh
from pytest_gradhealth.subject.step import Step
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.modules import is_sharded
from pytest_gradhealth.training.copies import copied
from pytest_gradhealth.training.loop import train
from pytest_gradhealth.training.optimizers import OptimizerLike, as_factory, build

#: Steps of the short training.
STEPS = 60
#: One training may take the n-th part of the time that is left.
TRAINING_SHARE = 4
#: Seconds that are spent on remedies by default.
_OWN = "pass pytest_gradhealth.Remedy objects"
BUDGET: float = BY_NAME["remedy_budget"].default


def suggest(
    diagnosis: Diagnosis, *, remedies: Iterable[Remedy] = (), budget: float = BUDGET
) -> tuple[Treatment, ...]:
    """Try remedies on copies of the model that a failing diagnosis is about.

    `remedies` come on top of the package's own. They are tried for at most `budget` seconds;
    what there was no time for is named. The model, which is taken as it is now, stays as it is.

    Returns what came of each remedy, cured ones first and the best of them first; nothing if
    nothing failed. Raises ProbeError for a diagnosis without its model: one that was read back.
    """
    require(
        "diagnosis",
        diagnosis,
        lambda given: isinstance(given, Diagnosis),
        "what probe(model, inputs, ...) returns",
    )
    if not isinstance(diagnosis.origin, Origin):
        raise ProbeError(
            "this diagnosis has lost its model, as one that was read back from a file has; call"
            " probe() on the model and pass what that returns"
        )
    failures = [finding for finding in diagnosis.findings if finding.severity == "failure"]
    own = listed(
        remedies,
        Remedy,
        f"remedies is a {{}}; {_OWN} in a list",
        f"remedies has a {{}} in it; {_OWN}",
    )
    seconds = parse(BY_NAME["remedy_budget"], budget, "suggest(budget=...)")
    return treat(diagnosis, failures, (*built_in_remedies(), *own), seconds)


def treat(
    diagnosis: Diagnosis,
    failures: Sequence[Finding],
    remedies: Iterable[Remedy],
    budget: float | None = None,
) -> tuple[Treatment, ...]:
    """Try the remedies for some failures within the budget (by default that of the settings)."""
    origin = diagnosis.origin
    if not isinstance(origin, Origin):
        return ()
    budget = origin.settings.remedy_budget if budget is None else budget
    remedies = tuple(remedies)
    treatable = {code for remedy in remedies for code in remedy.symptoms}
    codes = tuple(dict.fromkeys(f.code for f in failures if f.code in treatable))
    chosen = [remedy for remedy in remedies if set(codes) & set(remedy.symptoms)]
    if not budget or not chosen:
        return ()
    clock = Clock(time.perf_counter() + budget, longest=diagnosis.milliseconds / 1e3)
    with placed(prepare(origin.case, origin.settings, diagnosis.decisive_seed)) as trial:
        ward = _Ward(
            trial=replace(trial, optimizer=as_factory(trial.optimizer)),
            criteria=Criteria.of(origin.settings, origin.rules, diagnosis.limits),
            codes=codes,
            known=frozenset(f.code for f in diagnosis.findings if f.severity == "failure"),
            clock=clock,
            budget=budget,
        )
        nothing = _Untreated(
            Measure(), Comparison(ward.codes, math.nan, STEPS, ward.larger_is_better), Examined
        )
        reason = ""
        if is_sharded(trial.subject.model):
            reason = (
                "the layers of a sharded model cannot be replaced: probe it before it is sharded"
            )
        elif origin.rank is not None and origin.talks:
            reason = "the forward waits for other processes, which try no remedies"
        if reason:
            return tuple(_not_done(nothing, remedy, "cannot", reason) for remedy in chosen)
        if not clock.leaves_room:
            return tuple(_not_done(nothing, remedy, "not tried", ward.no_time) for remedy in chosen)
        with trial.subject.isolated(trial.optimizer):
            try:
                untreated = _untreated(ward, ward.rule.value(diagnosis.profile))
            except Exception as error:  # whatever it is, it must not hide what failed
                reason = f"no copy can be trained: {_first_line(error)}"
                return tuple(_not_done(nothing, remedy, "cannot", reason) for remedy in chosen)
            return tuple(sorted(_treatments(ward, untreated, chosen), key=merit))


def _first_line(error: Exception) -> str:
    """What an error says, in one line; errors of others with their type."""
    text = text_of(error) if isinstance(error, (ProbeError, CannotApplyError)) else ""
    text = text or told(error)
    return text.splitlines()[0]


@dataclass(frozen=True)
class _Ward:
    """The failing model, how it is judged, and the time there is.

    `codes` are those to be cured, `known` all that fail.
    """

    trial: Trial
    criteria: Criteria
    codes: tuple[str, ...]
    known: frozenset[str]
    clock: Clock
    budget: float

    @property
    def rule(self) -> Rule:
        """The rule whose value is compared."""
        return rule_of(self.codes[0], self.criteria.rules)

    @property
    def larger_is_better(self) -> bool:
        """Which way its value is to go."""
        return self.rule.quantity is not None and self.rule.quantity.better == "larger"

    @property
    def no_time(self) -> str:
        """Why a remedy was not tried."""
        return f"no time was left (remedy_budget={self.budget:g} s)"

    def copy(self) -> tuple[Patient, Subject]:
        """A deep copy of the model, as a patient (with its own batch) and as a subject."""
        subject = self.trial.subject
        twin, _ = copied(subject, None, subject.device)
        inputs = fresh(subject.inputs, subject.device)
        optimizer = self.trial.optimizer
        return Patient(twin.model, inputs, optimizer, subject.step, subject.dependency), twin

    def examine(self, subject: Subject, optimizer: OptimizerLike | None) -> Examined:
        """Judge a copy.

        What failed beside the asserted rules may go on failing; anything else may not begin to.
        """
        trial = replace(self.trial, subject=subject, optimizer=optimizer)
        profiles, findings = examine(trial, self.criteria)
        excused = self.known - set(self.codes)
        return Examined(
            self.rule.value(profiles[0]),
            frozenset(f.code for f in findings if f.severity == "failure") - excused,
            frozenset(f.code for f in findings if f.severity == "warning") - excused,
        )

    def losses(
        self, subject: Subject, optimizer: OptimizerLike | None, floor: float
    ) -> list[float]:
        """Losses of a short training of a copy, which ends early where it has shown enough."""
        stepper = build(optimizer, [p for p in subject.model.parameters() if p.requires_grad])
        found: list[float] = []
        end = self.clock.share(TRAINING_SHARE)
        for loss in train(subject, stepper, seed=self.trial.seed, steps=STEPS):
            found.append(float(loss))
            if is_clear(found, floor) or time.perf_counter() > end:
                break
        return found


@dataclass(frozen=True)
class _Untreated:
    """What remedies are held against: an unchanged copy, and a look at it after its training."""

    measure: Measure
    goal: Comparison
    trained: Callable[[], Examined]


def _untreated(ward: _Ward, value: float | None) -> _Untreated:
    """Train an unchanged copy."""
    patient, subject = ward.copy()
    constant = constant_answer(subject)
    known = math.nan if constant is None else constant
    losses = ward.losses(subject, patient.optimizer, known)
    floor = losses[0] if math.isnan(known) and losses else known

    @cache
    def trained() -> Examined:
        return ward.examine(subject, patient.optimizer)

    goal = Comparison(ward.codes, floor, STEPS, ward.larger_is_better)
    return _Untreated(measure_of(value, losses), goal, trained)


def _treatments(
    ward: _Ward, untreated: _Untreated, remedies: Sequence[Remedy]
) -> Iterator[Treatment]:
    """Try each remedy; those whose copies pass are trained at once, the others in what is left."""
    waiting: list[tuple[Remedy, Treatment]] = []
    for remedy in remedies:
        if not ward.clock.leaves_room:
            yield _not_done(untreated, remedy, "not tried", ward.no_time)
            continue
        with ward.clock.timed():
            treatment = _treated(ward, untreated, remedy, train_anyway=False)
        if treatment.after is not None and treatment.after.start is None:
            waiting.append((remedy, treatment))
        else:
            yield treatment
    for remedy, treatment in waiting:
        again = ward.clock.leaves_room
        yield _treated(ward, untreated, remedy, train_anyway=True) if again else treatment


def _treated(
    ward: _Ward, untreated: _Untreated, remedy: Remedy, *, train_anyway: bool
) -> Treatment:
    """Apply one remedy to a copy, examine that and train it."""
    try:
        patient, subject = ward.copy()
        given = patient.step, patient.optimizer
        seed_everything(ward.trial.seed, subject.device)
        code = remedy.change(patient) or remedy.code
        model = patient.model.to(subject.device)  # which may be one that the remedy has built
        subject = replace(subject, model=model, step=patient.step or Step())
        if (patient.step, patient.optimizer) != given and not ward.rule.judges_steps:
            return _treated_in_training(ward, untreated, remedy, code, patient, subject)
        seen = ward.examine(subject, patient.optimizer)
        losses: list[float] = []
        if not seen.failing or train_anyway:
            losses = ward.losses(subject, patient.optimizer, untreated.goal.floor)
    except Exception as error:  # also a remedy's own: the others go on
        return _not_done(untreated, remedy, "cannot", _first_line(error))
    before, after = untreated.measure, measure_of(seen.value, losses)
    outcome, reason = outcome_of(untreated.goal, before, after, seen)
    return _done(untreated, remedy, outcome, before, after, code, reason)


def _treated_in_training(
    ward: _Ward,
    untreated: _Untreated,
    remedy: Remedy,
    code: str,
    patient: Patient,
    subject: Subject,
) -> Treatment:
    """Examine a copy after the short training, where the remedy is a part of that."""
    goal = untreated.goal
    losses = ward.losses(subject, patient.optimizer, goal.floor)
    seen, without = ward.examine(subject, patient.optimizer), untreated.trained()
    before = replace(untreated.measure, value=without.value)
    after = measure_of(seen.value, losses)
    outcome, reason = outcome_of(goal, before, after, seen)
    as_good = not without.failing and (outcome == "better" or learns(before, goal.floor))
    if as_good and outcome in ("cured", "better"):
        outcome, reason = "no effect", "the same training does as much without it"
    return _done(untreated, remedy, outcome, before, after, code, reason)


def _done(
    untreated: _Untreated,
    remedy: Remedy,
    outcome: Outcome,
    before: Measure,
    after: Measure | None,
    code: str,
    reason: str,
) -> Treatment:
    return Treatment(
        remedy=remedy.name,
        outcome=outcome,
        rule=untreated.goal.code,
        before=before,
        after=after,
        code=code,
        reason=reason,
        family=remedy.family,
    )


def _not_done(untreated: _Untreated, remedy: Remedy, outcome: Outcome, reason: str) -> Treatment:
    return _done(untreated, remedy, outcome, untreated.measure, None, "", reason)

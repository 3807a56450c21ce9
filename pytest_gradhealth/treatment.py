"""Remedies, tried: each changes a copy of a failing model, which is probed and trained for a bit.

A remedy has cured a model if the rule that failed passes on the copy, under the same seed on the
same batch, and the loss falls in a short training on that batch, further than the best constant
answer would bring it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache

from pytest_gradhealth.capture import Subject
from pytest_gradhealth.confirm import copied
from pytest_gradhealth.diagnosis import Origin, examine
from pytest_gradhealth.errors import CannotApplyError, ProbeError
from pytest_gradhealth.guessing import constant_answer
from pytest_gradhealth.isolation import isolated, seed_everything
from pytest_gradhealth.optimizers import OptimizerLike, as_factory, build
from pytest_gradhealth.records import (
    Diagnosis,
    Finding,
    GradientProfile,
    Limit,
    Measure,
    Outcome,
    Treatment,
    decades,
    power,
)
from pytest_gradhealth.remedies import Patient, Remedy, built_in_remedies
from pytest_gradhealth.rules import Rule
from pytest_gradhealth.step import Step
from pytest_gradhealth.training import train
from pytest_gradhealth.trial import Trial, prepare
from pytest_gradhealth.wording import number

#: Steps of the short training, and the share of the loss that has to go.
STEPS = 60
FALL = 0.1
#: Share of the loss after which a training has shown enough.
ENOUGH = 0.5
#: One training may take the n-th part of the time that is left.
TRAINING_SHARE = 4
#: Decades towards the limit that count as better, or away from it as worse.
NOTABLE = 0.5
#: Seconds that are spent on remedies by default.
BUDGET = 10.0

#: For remedies, in the order of merit.
_ORDER: dict[Outcome, int] = {
    "cured": 0,
    "better": 1,
    "no effect": 2,
    "worse": 3,
    "cannot": 4,
    "not tried": 5,
}


def suggest(
    diagnosis: Diagnosis, *, remedies: Iterable[Remedy] = (), budget: float = BUDGET
) -> tuple[Treatment, ...]:
    """Try remedies on copies of the model that a failing diagnosis is about.

    `remedies` come on top of the package's own. They are tried for at most `budget` seconds;
    what there was no time for is named. The model, which is taken as it is now, stays as it is.

    Returns what came of each remedy, cured ones first and the best of them first; nothing if
    nothing failed. Raises ProbeError for a diagnosis without its model: one that was read back.
    """
    if not isinstance(diagnosis.origin, Origin):
        raise ProbeError(
            "this diagnosis has lost its model, as one that was read back from a file has; call"
            " probe() on the model and pass what that returns"
        )
    failures = [finding for finding in diagnosis.findings if finding.severity == "failure"]
    return treat(diagnosis, failures, (*built_in_remedies(), *remedies), budget)


def treat(
    diagnosis: Diagnosis,
    failures: Sequence[Finding],
    remedies: Iterable[Remedy],
    budget: float | None = None,
) -> tuple[Treatment, ...]:
    """Try the remedies for some failures within the budget (by default that of the settings)."""
    origin = diagnosis.origin
    if not failures or not isinstance(origin, Origin):
        return ()
    budget = origin.settings.remedy_budget if budget is None else budget
    codes = {finding.code for finding in failures}
    chosen = [remedy for remedy in remedies if codes & set(remedy.symptoms)]
    if not budget or not chosen:
        return ()
    clock = _Clock(time.perf_counter() + budget, longest=diagnosis.milliseconds / 1e3)
    trial = prepare(origin.case, origin.settings, diagnosis.decisive_seed)
    with isolated(trial.subject.modules, trial.subject.device):
        try:
            ward = _admit(trial, origin, failures, diagnosis, clock, budget)
        except Exception as error:  # whatever it is, it must not hide what failed
            reason = f"no copy can be trained: {_first_line(error)}"
            code = failures[0].code
            return tuple(
                Treatment(remedy.name, "cannot", code, Measure(), reason=reason)
                for remedy in chosen
            )
        return tuple(sorted(_treatments(ward, chosen), key=_merit))


def _first_line(error: Exception) -> str:
    """What an error says, in one line; errors of others with their type."""
    text = str(error) if isinstance(error, (ProbeError, CannotApplyError)) else ""
    text = text or f"{type(error).__name__}: {error}"
    return text.splitlines()[0]


@dataclass
class _Clock:
    """When the time is up, and how long the slowest trial took."""

    deadline: float
    longest: float

    @property
    def leaves_room(self) -> bool:
        """Whether a trial as long as the slowest so far would end in time."""
        return time.perf_counter() + self.longest < self.deadline

    def share(self, parts: int) -> float:
        """The time at which one of `parts` equal parts of what is left will be over."""
        now = time.perf_counter()
        return now + max(0.0, self.deadline - now) / parts

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Take the time of a trial."""
        started = time.perf_counter()
        yield
        self.longest = max(self.longest, time.perf_counter() - started)


@dataclass(frozen=True)
class _Examined:
    """What a copy showed: the value of the failed rule, and the codes that fail or warn."""

    value: float | None = None
    failing: frozenset[str] = frozenset()
    warning: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Ward:
    """The failing model, what failed, and what a short training does to an unchanged copy.

    `known` are the codes that failed on the model, `codes` those among them to be cured, `floor`
    the loss that an answer without learning has.
    """

    trial: Trial
    optimizer: OptimizerLike | None
    rules: tuple[Rule, ...]
    limits: Mapping[str, Limit]
    confirm_steps: int
    codes: tuple[str, ...]
    known: frozenset[str]
    clock: _Clock
    budget: float
    floor: float
    before: Measure
    trained: Callable[[], _Examined]

    @property
    def code(self) -> str:
        """The code whose value is compared before and after."""
        return self.codes[0]


def _admit(
    trial: Trial,
    origin: Origin,
    failures: Sequence[Finding],
    diagnosis: Diagnosis,
    clock: _Clock,
    budget: float,
) -> _Ward:
    """Train an unchanged copy, for what remedies are compared with."""
    ward = _Ward(
        trial=trial,
        optimizer=as_factory(trial.optimizer),
        rules=origin.rules,
        limits=diagnosis.limits,
        confirm_steps=origin.settings.confirm_steps,
        codes=tuple(dict.fromkeys(finding.code for finding in failures)),
        known=frozenset(f.code for f in diagnosis.findings if f.severity == "failure"),
        clock=clock,
        budget=budget,
        floor=math.nan,
        before=Measure(),
        trained=_Examined,
    )
    patient, subject = _copy(ward)
    constant = constant_answer(subject)
    losses = _losses(subject, patient.optimizer, trial.seed, constant, clock)
    before = _measured(_value(ward.code, diagnosis.profile), losses)
    floor = constant if constant is not None else losses[0] if losses else math.nan

    @cache
    def trained() -> _Examined:
        return _examined(ward, subject, patient.optimizer)

    return replace(ward, before=before, floor=floor, trained=trained)


def _treatments(ward: _Ward, remedies: Sequence[Remedy]) -> Iterator[Treatment]:
    """Try each remedy; those whose copies pass are trained at once, the others in what is left."""
    waiting: list[tuple[Remedy, Treatment]] = []
    for remedy in remedies:
        if not ward.clock.leaves_room:
            reason = f"no time was left (remedy_budget={ward.budget:g} s)"
            yield _not_done(ward, remedy, "not tried", reason)
            continue
        with ward.clock.timed():
            treatment = _treated(ward, remedy, train_anyway=False)
        if treatment.after is not None and treatment.after.start is None:
            waiting.append((remedy, treatment))
        else:
            yield treatment
    for remedy, treatment in waiting:
        yield _treated(ward, remedy, train_anyway=True) if ward.clock.leaves_room else treatment


def _not_done(ward: _Ward, remedy: Remedy, outcome: Outcome, reason: str) -> Treatment:
    return Treatment(
        remedy.name, outcome, ward.code, ward.before, reason=reason, family=remedy.family
    )


def _done(
    ward: _Ward,
    remedy: Remedy,
    code: str,
    before: Measure,
    after: Measure,
    conclusion: tuple[Outcome, str],
) -> Treatment:
    outcome, reason = conclusion
    return Treatment(remedy.name, outcome, ward.code, before, after, code, reason, remedy.family)


def _treated(ward: _Ward, remedy: Remedy, *, train_anyway: bool) -> Treatment:
    """Apply one remedy to a copy, examine that and train it."""
    seed = ward.trial.seed
    try:
        patient, subject = _copy(ward)
        before = replace(patient)
        seed_everything(seed, subject.device)
        code = remedy.change(patient) or remedy.code
        trained_otherwise = (patient.step, patient.optimizer) != (before.step, before.optimizer)
        subject = replace(subject, model=patient.model, step=patient.step or Step())
        if trained_otherwise and ward.code != "GH202":
            return _treated_in_training(ward, remedy, patient, subject, code)
        seen = _examined(ward, subject, patient.optimizer)
        losses: list[float] = []
        if not seen.failing or train_anyway:
            losses = _losses(subject, patient.optimizer, seed, ward.floor, ward.clock)
    except Exception as error:  # also a remedy's own: the others go on
        return _not_done(ward, remedy, "cannot", _first_line(error))
    after = _measured(seen.value, losses)
    conclusion = _outcome(ward, ward.before, after, seen)
    return _done(ward, remedy, code, ward.before, after, conclusion)


def _treated_in_training(
    ward: _Ward, remedy: Remedy, patient: Patient, subject: Subject, code: str
) -> Treatment:
    """Examine a copy after the short training, where the remedy is a part of that."""
    losses = _losses(subject, patient.optimizer, ward.trial.seed, ward.floor, ward.clock)
    seen, without = _examined(ward, subject, patient.optimizer), ward.trained()
    before, after = replace(ward.before, value=without.value), _measured(seen.value, losses)
    outcome, reason = _outcome(ward, before, after, seen)
    as_good = not without.failing and (outcome == "better" or _learns(before, ward.floor))
    if as_good and outcome in ("cured", "better"):
        outcome, reason = "no effect", "the same training does as much without it"
    return _done(ward, remedy, code, before, after, (outcome, reason))


def _outcome(ward: _Ward, before: Measure, after: Measure, seen: _Examined) -> tuple[Outcome, str]:
    """Compare what was measured before and after; say why where the numbers do not."""
    learns, gain = _learns(after, ward.floor), _gain(ward.code, before.value, after.value)
    ends_badly = after.end is not None and not math.isfinite(after.end)
    if not seen.failing and learns:
        warned = " and ".join(sorted(seen.warning))
        return "cured", f"{warned} warns" if warned else ""
    if seen.failing and not seen.failing & set(ward.codes):
        return "no effect", f"fails {' and '.join(sorted(seen.failing))} instead"
    if ends_badly and (before.end is None or math.isfinite(before.end)):
        return "worse", "the loss does not stay finite"
    if not seen.failing:
        if 0 < after.steps < STEPS and not ends_badly:
            return "better", f"there was time for {after.steps} of {STEPS} steps only"
        return "better", _lacking(after, ward.floor)
    if gain >= NOTABLE or (learns and not _learns(before, ward.floor)):
        return "better", ""
    return ("worse" if gain <= -NOTABLE else "no effect"), ""


def _lacking(after: Measure, floor: float) -> str:
    """What is wrong with a training that did not do enough."""
    if after.end is None or not math.isfinite(floor):
        return ""
    how = "worse" if after.end > floor + FALL * abs(floor) else "no better"
    return f"still {how} than one answer for all, whose loss is {number(floor)}"


def _copy(ward: _Ward) -> tuple[Patient, Subject]:
    """A deep copy of the model, as a patient and as a subject."""
    subject = ward.trial.subject
    twin, _ = copied(subject, None, subject.device)
    return Patient(twin.model, subject.inputs, ward.optimizer, subject.step), twin


def _examined(ward: _Ward, subject: Subject, optimizer: OptimizerLike | None) -> _Examined:
    """Judge a copy.

    What failed beside the asserted rules may go on failing; anything else may not begin to.
    """
    trial = replace(ward.trial, subject=subject, optimizer=optimizer)
    profiles, findings = examine(trial, ward.confirm_steps, ward.rules, ward.limits)
    excused = ward.known - set(ward.codes)
    return _Examined(
        _value(ward.code, profiles[0]),
        frozenset(f.code for f in findings if f.severity == "failure") - excused,
        frozenset(f.code for f in findings if f.severity == "warning") - excused,
    )


def _value(code: str, profile: GradientProfile) -> float | None:
    """What a rule compares with its limit, None for rules that compare nothing."""
    paths = [path for path in profile.judged_paths if path.links and path.finite]
    if code == "GH101" and paths:
        return power(min(path.vanishing for path in paths))
    if code == "GH201" and paths:
        return power(max(path.exploding for path in paths))
    if code == "GH202" and profile.updates:
        return max(update.change for update in profile.updates)
    return None


def _gain(code: str, before: float | None, after: float | None) -> float:
    """Decades that a value has moved in the right direction."""
    if before is None or after is None or not math.isfinite(after) or after == before:
        return 0.0
    if not math.isfinite(before):
        return math.inf
    gain = decades(after, before)
    return gain if code == "GH101" else -gain


def _losses(
    subject: Subject,
    optimizer: OptimizerLike | None,
    seed: int,
    floor: float | None,
    clock: _Clock,
) -> list[float]:
    """Losses of a short training of a copy, which ends early where it has shown enough."""
    stepper = build(optimizer, [p for p in subject.model.parameters() if p.requires_grad])
    losses: list[float] = []
    end = clock.share(TRAINING_SHARE)
    for loss in train(subject, stepper, seed=seed, steps=STEPS):
        losses.append(float(loss))
        least = losses[0] if floor is None else min(losses[0], floor)
        if not math.isfinite(losses[-1]) or losses[-1] < ENOUGH * least:
            break
        if time.perf_counter() > end:
            break
    return losses


def _measured(value: float | None, losses: Sequence[float]) -> Measure:
    if not losses:
        return Measure(value)
    return Measure(value, losses[0], losses[-1], len(losses))


def _learns(measure: Measure, floor: float) -> bool:
    """Whether the loss falls, and below that of an answer without learning."""
    if measure.start is None or measure.end is None or not math.isfinite(measure.end):
        return False
    marks = [mark for mark in (measure.start, floor) if math.isfinite(mark)]
    return all(measure.end < mark - FALL * abs(mark) for mark in marks)


def _merit(treatment: Treatment) -> tuple[float, ...]:
    """The order of the table: by outcome, then by how fast the loss falls."""
    after = treatment.after or Measure()
    end = math.inf if after.end is None else after.end
    return _ORDER[treatment.outcome], bool(treatment.reason), after.steps or math.inf, end

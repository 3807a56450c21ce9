"""Remedies applied to copies, one by one, those that cure with several draws of the weights."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import torch

from pytest_gradhealth.errors import CannotApplyError, ProbeError
from pytest_gradhealth.formatting import text_of, told
from pytest_gradhealth.isolation.random_state import seed_everything
from pytest_gradhealth.remedies.chance import REASON, is_by_chance
from pytest_gradhealth.remedies.initialisation import FAMILY as REDRAWING
from pytest_gradhealth.remedies.outcome import (
    Examined,
    is_same,
    measure_of,
    outcome_of,
    patience_with,
    trains_alike,
)
from pytest_gradhealth.remedies.remedy import Patient, Remedy
from pytest_gradhealth.remedies.ward import MARGIN, Untreated, Ward
from pytest_gradhealth.results.diagnosis import Measure, Outcome, Treatment
from pytest_gradhealth.subject.step import Step
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.training.learning import learns

_AS_GOOD = "the same training does as much without it"


def first_line(error: Exception) -> str:
    """What an error says, in one line; errors of others with their type."""
    text = text_of(error) if isinstance(error, (ProbeError, CannotApplyError)) else ""
    text = text or told(error)
    return text.splitlines()[0]


@dataclass(frozen=True)
class _Applied:
    """A copy with a remedy: `draws` says that the remedy, or a factory, draws its weights.

    It is trained at `rate` times its learning rate.
    """

    patient: Patient
    subject: Subject
    code: str
    draws: bool
    changes_training: bool
    rate: float


def _apply(ward: Ward, remedy: Remedy, draw: int) -> _Applied:
    patient, subject = ward.copy(draw)
    given = patient.step, patient.optimizer
    seed = ward.seed(draw)
    seed_everything(seed, subject.device)
    undrawn = _numbers(subject)
    seed_everything(seed, subject.device)
    code = remedy.change(patient) or remedy.code
    draws = _numbers(subject) != undrawn or ward.redraw is not None
    model = patient.model.to(subject.device)  # which may be one that the remedy has built
    subject = replace(subject, model=model, step=patient.step or Step())
    changes = (patient.step, patient.optimizer) != given
    return _Applied(patient, subject, code, draws, changes, ward.rate(draw))


def _numbers(subject: Subject) -> tuple[float, ...]:
    """The next number of each generator: another one if something has drawn."""
    devices = dict.fromkeys((torch.device("cpu"), subject.device))
    return random.random(), *(torch.rand((), device=device).item() for device in devices)


@dataclass(frozen=True)
class _Result:
    """What came of a draw of a remedy, whether there are others to be had, and what was seen.

    A copy that fails `waits` for its training, which may be made later.
    """

    remedy: Remedy
    treatment: Treatment
    draws: bool = False
    waits: Examined | None = None

    @property
    def is_uncertain(self) -> bool:
        """Whether it is a cure that may owe itself to a lucky draw."""
        return self.draws and self.treatment.outcome == "cured"


def treatments(ward: Ward, base: Untreated, remedies: Sequence[Remedy]) -> Iterator[Treatment]:
    """Try each remedy, in the order of what matters most.

    Copies that pass are trained at once. The first cure of a family, whose code is shown, is
    confirmed by further draws at once, the others in what time is left, as is the training of
    copies that fail.
    """
    ward = replace(ward, answer=base.goal.yardstick.answer)
    by_chance = cache(partial(is_by_chance, ward))
    later: list[_Result] = []
    families: set[str] = set()
    for remedy in remedies:
        if not ward.clock.leaves_room:
            yield treatment_of(remedy, base.goal.code, "not tried", ward.no_time, base.measure)
            continue
        result = _treated(ward, base, remedy)
        cured = result.treatment.outcome == "cured"
        if cured and remedy.family == REDRAWING and by_chance():
            yield replace(result.treatment, outcome="better", reason=REASON)
            continue
        family = remedy.family or remedy.name
        if result.waits or (result.is_uncertain and family in families):
            later.append(result)
            continue
        treatment = _confirmed(ward, base, result)
        if treatment.outcome == "cured":
            families.add(family)
        yield treatment
    for result in sorted(later, key=lambda result: bool(result.waits)):
        if not result.waits:
            yield _confirmed(ward, base, result)
        elif ward.clock.leaves_room:
            yield _treated(ward, base, result.remedy, seen=result.waits).treatment
        else:
            yield result.treatment


def _confirmed(ward: Ward, base: Untreated, first: _Result) -> Treatment:
    """A cure, if further draws of the weights are cured as well; else the first that is not."""
    found = first.treatment
    if not first.is_uncertain:
        return found
    for draw in range(1, ward.draws):
        other = found
        if in_time := ward.clock.leaves_room:
            other = _treated(ward, base, first.remedy, draw, first=found.after).treatment
        if not in_time or (other.outcome != "cured" and ward.clock.is_over):
            reason = f"there was time for {draw} of {ward.draws} draws of the weights only"
            return replace(found, outcome="better", reason=reason)
        if other.outcome != "cured":
            rate = "" if ward.is_steady else f", the last at {MARGIN:g} times the learning rate"
            reason = f"cured with {draw} of {draw + 1} draws of the weights{rate}"
            reason = f"{reason}; {other.reason}" if other.reason else reason
            if other.after is None:
                return replace(found, outcome="better", reason=reason)
            return replace(other, code=found.code, reason=reason)
    return found


def _treated(
    ward: Ward,
    base: Untreated,
    remedy: Remedy,
    draw: int = 0,
    *,
    seen: Examined | None = None,
    first: Measure | None = None,
) -> _Result:
    """Apply one remedy to a copy, examine that and train it.

    One that fails is trained if it was `seen`, a further draw unless it trains as the `first`.
    """
    waits = None
    try:
        with ward.clock.timed():
            applied = _apply(ward, remedy, draw)
            if applied.changes_training and not ward.rule.judges_steps:
                treatment = _treated_in_training(ward, base, remedy, applied)
            else:
                found = seen or ward.examine(applied.subject, applied.patient.optimizer)
                waits = found if found.failing and seen is None else None
                is_like_first = first is not None and trains_alike(first, found, base.goal)
                known = Measure() if waits else first if is_like_first else None
                treatment = _examined(ward, base, remedy, applied, found, known)
    except Exception as error:  # also a remedy's own: the others go on
        reason = first_line(error)
        return _Result(remedy, treatment_of(remedy, base.goal.code, "cannot", reason, base.measure))
    return _Result(remedy, treatment, applied.draws, waits)


def _examined(
    ward: Ward,
    base: Untreated,
    remedy: Remedy,
    applied: _Applied,
    seen: Examined,
    trained: Measure | None,
) -> Treatment:
    """Judge a copy by what was seen of it, and by its training, where that is not known."""
    goal, before, cut = base.goal, base.measure, False
    if trained is None:
        subject, optimizer = applied.subject, applied.patient.optimizer
        patience = patience_with(seen, goal, before)
        training = ward.train(subject, optimizer, goal.yardstick, patience, applied.rate)
        trained, cut = measure_of(seen.value, training), training.cut
    after = replace(trained, value=seen.value)
    outcome = outcome_of(goal, before, after, seen, cut=cut)
    return treatment_of(remedy, goal.code, *outcome, before, after, applied.code)


def _treated_in_training(
    ward: Ward, base: Untreated, remedy: Remedy, applied: _Applied
) -> Treatment:
    """Examine a copy after the short training, where the remedy is a part of that."""
    goal, subject, optimizer = base.goal, applied.subject, applied.patient.optimizer
    training = ward.train(subject, optimizer, goal.yardstick, rate=applied.rate)
    if is_same(training.losses, base.training.losses):
        same = base.measure, base.measure
        return treatment_of(remedy, goal.code, "no effect", _AS_GOOD, *same, applied.code)
    without, seen = base.trained(), ward.examine(subject, optimizer)
    before = replace(base.measure, value=without.value)
    after = measure_of(seen.value, training)
    outcome, reason = outcome_of(goal, before, after, seen, cut=training.cut)
    as_good = not without.failing and (outcome == "better" or learns(before, goal.yardstick))
    if as_good and outcome in ("cured", "better"):
        outcome, reason = "no effect", _AS_GOOD
    return treatment_of(remedy, goal.code, outcome, reason, before, after, applied.code)


def treatment_of(
    remedy: Remedy,
    rule: str,
    outcome: Outcome,
    reason: str,
    before: Measure,
    after: Measure | None = None,
    code: str = "",
) -> Treatment:
    """What is told of a remedy; it was not tried, or could not be applied, without an `after`."""
    return Treatment(remedy.name, outcome, rule, before, after, code, reason, remedy.family)

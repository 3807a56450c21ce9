"""A failing model and the copies of it: how each is made, judged and trained for a bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from torch import nn

from pytest_gradhealth.config.values import FEWEST
from pytest_gradhealth.measure.constant_predictor import yardstick
from pytest_gradhealth.probing.examine import examine
from pytest_gradhealth.probing.judge import Criteria
from pytest_gradhealth.probing.prepare import Trial
from pytest_gradhealth.remedies.clock import Clock
from pytest_gradhealth.remedies.outcome import Comparison, Examined, Training, measure_of
from pytest_gradhealth.remedies.remedy import Patient
from pytest_gradhealth.results.diagnosis import Measure
from pytest_gradhealth.results.yardstick import Yardstick
from pytest_gradhealth.rules import rule_of
from pytest_gradhealth.rules.non_finite import RULE as NON_FINITE
from pytest_gradhealth.rules.rule import Rule
from pytest_gradhealth.subject.forward import fresh
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.training.copies import copied
from pytest_gradhealth.training.learning import LEAST, LONG, STEPS, is_decided
from pytest_gradhealth.training.loop import optimizer_for, train
from pytest_gradhealth.training.optimizers import OptimizerLike

#: Draws of the weights that a remedy has to cure with: more where training may run away, since what
#: does so with half of the draws comes through three of them now and then.
DRAWS, SHAKY_DRAWS = 3, 5
#: Times the learning rate at which further draws are trained where training may run away. What does
#: so with one draw in ten or forty there does with half of them here; what is a cure, seldom.
MARGIN = 1.5
#: What lies between the seeds of two draws.
STRIDE = 7919
#: One training may take the n-th part of the time that is left, if that is for the least of steps.
TRAINING_SHARE = 4


@dataclass(frozen=True)
class Ward:
    """The failing model, how it is judged, and the time there is.

    `codes` are those to be cured, `known` all that fail. `redraw` builds the model anew from a
    seed, where there is a factory.
    """

    trial: Trial
    redraw: Callable[[int], nn.Module] | None
    criteria: Criteria
    codes: tuple[str, ...]
    known: frozenset[str]
    clock: Clock
    budget: float
    answer: tuple[float, ...] = ()

    @property
    def rule(self) -> Rule:
        """The rule whose value is compared."""
        return rule_of(self.codes[0], self.criteria.rules)

    @property
    def is_steady(self) -> bool:
        """Whether what trains well goes on to: steps adapt, and no step failed, nor did NaN."""
        adapts = self.trial.optimizer is None or self.trial.kind.eps is not None
        return adapts and not self.rule.judges_steps and NON_FINITE.code not in self.known

    @property
    def draws(self) -> int:
        """How many draws of the weights a remedy has to cure with."""
        return DRAWS if self.is_steady else SHAKY_DRAWS

    def rate(self, draw: int) -> float:
        """Times the learning rate at which a draw is trained."""
        return MARGIN if draw and not self.is_steady else 1.0

    def seed(self, draw: int) -> int:
        """The seed of a draw of weights."""
        return self.trial.seed + draw * STRIDE

    @property
    def no_time(self) -> str:
        """Why a remedy was not tried."""
        return f"no time was left (remedy_budget={self.budget:g} s)"

    def copy(self, draw: int = 0) -> tuple[Patient, Subject]:
        """A deep copy of the model, as a patient (with its own batch) and as a subject.

        Of a further draw of its weights, where a factory makes them.
        """
        subject = replace(self.trial.subject, fused=True)
        if draw and self.redraw is not None:
            subject = replace(subject, model=self.redraw(self.seed(draw)))
        twin, _ = copied(subject, None, subject.device)
        inputs = fresh(subject.inputs, subject.device)
        optimizer = self.trial.optimizer
        step, dependency = subject.step, subject.dependency
        return Patient(twin.model, inputs, optimizer, step, dependency, self.answer), twin

    def examine(self, subject: Subject, optimizer: OptimizerLike | None) -> Examined:
        """Judge a copy.

        What failed beside the asserted rules may go on failing; anything else may not begin to.
        """
        trial = replace(self.trial, subject=subject, optimizer=optimizer, learn_steps=0)
        profiles, findings = examine(trial, self.criteria)
        excused = self.known - set(self.codes)
        return Examined(
            self.rule.value(profiles[0]),
            frozenset(f.code for f in findings if f.severity == "failure") - excused,
            frozenset(f.code for f in findings if f.severity == "warning") - excused,
        )

    def train(
        self,
        subject: Subject,
        optimizer: OptimizerLike | None,
        held_against: Yardstick,
        patience: int = FEWEST,
        rate: float = 1.0,
    ) -> Training:
        """Train a copy for a bit, at `rate` times its learning rate, until it has shown enough."""
        stepper = optimizer_for(subject, optimizer)
        for group in stepper.param_groups:
            if "lr" in group:
                group["lr"] = rate * group["lr"]
        found: list[float] = []
        share = Clock(self.clock.left / TRAINING_SHARE)
        for loss in train(subject, stepper, seed=self.trial.seed, steps=LONG):
            found.append(float(loss))
            if is_decided(found, held_against, patience, steady=self.is_steady):
                break
            if self.clock.is_over or (len(found) >= LEAST and share.is_over):
                return Training(tuple(found), cut=len(found) < STEPS)
        return Training(tuple(found))


@dataclass(frozen=True)
class Untreated:
    """What remedies are held against: an unchanged copy, and a look at it after its training."""

    measure: Measure
    training: Training
    goal: Comparison
    trained: Callable[[], Examined]


def untreated(ward: Ward, value: float | None) -> Untreated:
    """Train an unchanged copy."""
    patient, subject = ward.copy()
    held_against = yardstick(subject)
    training = ward.train(subject, patient.optimizer, held_against)
    if math.isnan(held_against.constant):
        held_against = replace(held_against, constant=training.losses[0], guessed=True)
    if min(training.losses) < 0:
        held_against = replace(held_against, can_be_negative=True)

    @cache
    def trained() -> Examined:
        return ward.examine(subject, patient.optimizer)

    quantity = ward.rule.quantity
    larger = quantity is not None and quantity.better == "larger"
    goal = Comparison(ward.codes, held_against, larger)
    return Untreated(measure_of(value, training), training, goal, trained)

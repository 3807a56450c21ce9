"""The user's training steps, made on a copy of what is probed."""

from __future__ import annotations

from contextlib import suppress

from pytest_gradhealth.distributed.team import anywhere
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.probing.prepare import Trial
from pytest_gradhealth.results.first_step import FirstStep
from pytest_gradhealth.results.profile import GradientProfile, Update
from pytest_gradhealth.rules.exploding import scale_free_weights
from pytest_gradhealth.tensors.modules import is_sharded, waits_for_others
from pytest_gradhealth.training.first_step import first_step, may_be_too_long
from pytest_gradhealth.training.memory import check_room
from pytest_gradhealth.training.twin import twin_of
from pytest_gradhealth.training.updates import updates

#: How many steps are made where they are judged.
UPDATE_STEPS = 10


def updates_of(trial: Trial, profile: GradientProfile) -> tuple[Update, ...]:
    """Make some of the user's training steps."""
    exempt = scale_free_weights(profile)
    with twin_of(trial.subject, trial.optimizer) as (twin, stepper):
        return updates(twin, stepper, seed=trial.seed, steps=UPDATE_STEPS, exempt=exempt)


def first_step_of(trial: Trial, profile: GradientProfile) -> FirstStep | None:
    """Make the first step, if it promises much; None if it is short enough, or cannot be made.

    Nor is one made of a model that several processes share.
    """
    subject = trial.subject
    if not anywhere(subject.model, may_be_too_long(trial.kind, profile)):
        return None
    if waits_for_others(subject.model) or is_sharded(subject.model):
        return None
    with suppress(ProbeError, RuntimeError):
        check_room(subject.modules, trial.optimizer, subject.device)
        with twin_of(subject, trial.optimizer) as (twin, stepper):
            return first_step(twin, stepper, seed=trial.seed)
    return None

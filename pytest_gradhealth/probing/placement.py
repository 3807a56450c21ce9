"""Where a model is probed: as it is, or as a copy on another device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from pytest_gradhealth.isolation.lazy_copy import is_in_the_way
from pytest_gradhealth.probing.prepare import Trial
from pytest_gradhealth.training.copies import copied

Result = TypeVar("Result")


@contextmanager
def placed(trial: Trial) -> Iterator[Trial]:
    """Yield what is to be looked at: the model, or a copy of it on the device it is meant for.

    The model stays as it is while its copy is used, since a loss may hold on to it.
    """
    subject, target = trial.subject, trial.target
    if target is None:
        yield trial
        return
    with replace(subject, device=target).isolated():
        twin, optimizer = copied(subject, trial.optimizer, target)
        yield replace(trial, subject=twin, optimizer=optimizer, target=None)


def where_it_runs(trial: Trial, run: Callable[[Trial], Result]) -> Result:
    """Run on the device that a model is meant for; where that is only a wish, else where it is.

    Something that the model, its loss or its step holds on to may be bound to the model's own
    device, or be in the way of a copy. Whatever it is, there it is no fault of the model's: what
    counts is how it runs where the caller has it. No more is it one where memory is in the way that
    a parameter shares with its copy: then that is made at once.
    """
    try:
        return _run_placed(trial, run)
    except Exception as error:
        shared = is_in_the_way(error) and not trial.subject.copy
        if not shared and not trial.wished:
            raise
    # The error is gone by now, and with it the copy.
    if shared:
        return where_it_runs(replace(trial, subject=replace(trial.subject, copy=True)), run)
    return run(replace(trial, target=None))


def _run_placed(trial: Trial, run: Callable[[Trial], Result]) -> Result:
    with placed(trial) as there:
        return run(there)

"""Errors of a forward or a loss say in which module they were raised, and what to pass instead.

Nothing is refused for what it is: what a model takes is right. Only what has failed is asked why.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from traceback import walk_tb

from torch import nn

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.formatting import text_of
from pytest_gradhealth.subject.forward_advice import OF_FORWARDS
from pytest_gradhealth.subject.handed import Handed
from pytest_gradhealth.subject.inputs import faults
from pytest_gradhealth.subject.loss_advice import OF_LOSSES
from pytest_gradhealth.tensors.modules import class_name

#: What calls a module, whatever its forward calls itself.
_CALL = nn.Module.__call__.__code__


@contextmanager
def advised(handed: Handed) -> Iterator[None]:
    """Have errors say in which module they were raised, and what to pass instead."""
    try:
        yield
    except ProbeError as error:
        cause = error.__cause__
        lines = [*faults(handed.inputs)][:1]
        if cause is not None:
            raised = replace(handed, cause=cause, said=text_of(cause), at=_at(handed, cause))
            place = f"raised in {raised.at} ({class_name(raised.inside)})" if raised.at else ""
            lines = [place, *lines, _advice(raised)]
        error.args = ("\n  ".join([str(error), *filter(None, lines)]),)
        raise


def _advice(handed: Handed) -> str:
    """What to pass instead, "" where nothing is known; asking anyone's objects may raise."""
    for advise in OF_FORWARDS if handed.to == "forward" else OF_LOSSES:
        with suppress(Exception):
            advice = advise(handed)
            if advice:
                return advice
    return ""


def _at(handed: Handed, cause: BaseException) -> str:
    """The name of the innermost module of the model that was called, "" for the model itself.

    Nothing is read of other frames, which would hold on to it from then on.
    """
    names = {id(module): name for name, module in handed.model.named_modules()}
    calls = (frame for frame, _ in walk_tb(cause.__traceback__) if frame.f_code is _CALL)
    found = [id(frame.f_locals.get("self")) for frame in calls]
    return next((names[one] for one in reversed(found) if one in names), "")

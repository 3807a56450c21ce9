"""What a caller is shown of an error: its words and the frames of code that is not ours."""

from __future__ import annotations

from types import TracebackType

from pytest_gradhealth.errors import ProbeError, chain_of
from pytest_gradhealth.isolation.code import is_shown


def refused(error: ProbeError) -> ProbeError:
    """The error without a traceback, its causes with those frames that their reader can act on."""
    for one in chain_of(error):
        one.__traceback__ = _shown(one.__traceback__)
    return error.with_traceback(None)


def _shown(traceback: TracebackType | None) -> TracebackType | None:
    """Frames of the caller's code, and of libraries that it uses, without those of torch."""
    steps = []
    while traceback is not None:
        if is_shown(traceback.tb_frame.f_code.co_filename):
            steps.append(traceback)
        traceback = traceback.tb_next
    for step in reversed(steps):
        traceback = TracebackType(traceback, step.tb_frame, step.tb_lasti, step.tb_lineno)
    return traceback

"""Parameters that each forward makes anew, which no optimizer can have."""

from __future__ import annotations

from torch import Tensor, nn

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.graph import walk
from pytest_gradhealth.tensors.modules import waits_for_others


def made_anew(subject: Subject, *, seed: int) -> tuple[tuple[int, ...], ...]:
    """Return their shapes, nothing where that is unknown. To be called inside `isolated`."""
    if waits_for_others(subject.model):
        return ()
    try:
        before, again = _parameters(subject, seed), _parameters(subject, seed)
    except (ProbeError, RuntimeError):
        return ()
    known = {*map(id, before)}
    return tuple(tuple(t.shape) for t in again if id(t) not in known)


def _parameters(subject: Subject, seed: int) -> list[Tensor]:
    loss = Pass(subject, seed).run()
    return [leaf for leaf in walk(loss).leaves if isinstance(leaf, nn.Parameter)]

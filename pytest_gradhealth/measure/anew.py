"""Parameters that each forward makes anew, which no optimizer can have."""

from __future__ import annotations

from torch import Tensor, nn

from pytest_gradhealth.measure.asked import asked
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.graph import walk


@asked(())
def made_anew(subject: Subject, *, seed: int) -> tuple[tuple[int, ...], ...]:
    """Return their shapes, nothing where that is unknown."""
    before, again = _parameters(subject, seed), _parameters(subject, seed)
    known = {*map(id, before)}
    return tuple(tuple(t.shape) for t in again if id(t) not in known)


def _parameters(subject: Subject, seed: int) -> list[Tensor]:
    loss = Pass(subject, seed).run()
    return [leaf for leaf in walk(loss).leaves if isinstance(leaf, nn.Parameter)]

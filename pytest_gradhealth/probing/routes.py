"""Which silent members of lists it is not the turn of, asked where a baseline wants to know."""

from __future__ import annotations

from collections.abc import Collection

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.measure.routing import routed
from pytest_gradhealth.probing.placement import placed
from pytest_gradhealth.probing.prepare import prepare
from pytest_gradhealth.probing.probe import Origin
from pytest_gradhealth.results.diagnosis import Diagnosis
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules.resting import Resting


def routed_lists(diagnosis: Diagnosis, look: GradientProfile) -> Collection[str] | None:
    """Return the lists with silent members in which another batch or seed goes to others.

    The model of the diagnosis is run for it. None where there are no such lists, or it cannot be
    told: the model is gone, shared by processes, or fails by now.
    """
    silent = [p for p in look.parameters if p.state in ("none", "zero")]
    resting = Resting(look) if silent else None
    lists = {name for p in silent if resting for name in resting.busy_lists(p)}
    origin = diagnosis.origin
    if not lists or not isinstance(origin, Origin) or origin.rank is not None:
        return None
    try:
        trial = prepare(origin.case, origin.settings, look.seed)
        with placed(trial) as there, there.subject.isolated():
            return routed(there.subject, lists, seed=look.seed)
    except ProbeError:
        return None

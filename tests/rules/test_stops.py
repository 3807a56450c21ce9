"""What an operation means that lets no gradient through."""

from __future__ import annotations

import pytest

from pytest_gradhealth.results.activation_functions import FUNCTIONAL
from pytest_gradhealth.results.profile import Stop
from pytest_gradhealth.rules.stops import cause_of_stop


@pytest.mark.parametrize("node", FUNCTIONAL)
def test_each_activation_that_is_flat_has_a_cause(node: str) -> None:
    cause = cause_of_stop(Stop(node, "fc", "Linear", "behind"))
    assert cause is not None
    assert cause.because.startswith(f"{Stop(node, 'fc', 'Linear', 'behind').where} ")

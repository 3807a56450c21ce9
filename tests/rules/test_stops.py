"""What an operation means that lets no gradient through."""

from __future__ import annotations

import pytest

from pytest_gradhealth.measure.cuts import _NUMBERS
from pytest_gradhealth.measure.stops import _LEVELLED
from pytest_gradhealth.results.activation_functions import FUNCTIONAL
from pytest_gradhealth.results.profile import Stop
from pytest_gradhealth.rules.stops import cause_of_stop


@pytest.mark.parametrize("op", [*FUNCTIONAL, *sorted(_NUMBERS)])
def test_what_is_flat_or_makes_plain_numbers_has_a_cause(op: str) -> None:
    stop = Stop(op, "fc", "Linear", "behind")
    cause = cause_of_stop(stop)
    assert cause is not None
    assert cause.because.startswith(f"{stop.where} ")


@pytest.mark.parametrize("op", _LEVELLED)
def test_what_levels_one_element_has_a_cause(op: str) -> None:
    cause = cause_of_stop(Stop(op, "fc", "Linear", "behind", elements=1))
    assert cause is not None
    assert " over one " in cause.because

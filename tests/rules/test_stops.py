"""What an operation means that lets no gradient through."""

from __future__ import annotations

import pytest

from pytest_gradhealth.measure.cuts import _NUMBERS
from pytest_gradhealth.measure.stops import _LEVELLED
from pytest_gradhealth.results.activation_functions import FUNCTIONAL
from pytest_gradhealth.results.stop import Stop
from pytest_gradhealth.rules.rule import Cause
from pytest_gradhealth.rules.stops import cause_of_silence, cause_of_stop


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


@pytest.mark.parametrize(
    ("stop", "because"),
    [
        (Stop("no_grad", "fc", "Linear"), "fc (Linear) runs under no_grad()"),
        (
            Stop("Mul", "fc", "Linear", "behind", zeros="fc.weight_mask"),
            "fc.weight_mask is all zeros, and so is what it is multiplied with",
        ),
        (
            Stop("Mul", "drop", "Dropout", zeros="0"),
            "drop (Dropout) drops all units for the whole batch: its p is 1",
        ),
        (
            Stop("Mul", "fc", "Linear", "behind", zeros="0"),
            "mul behind fc (Linear) is one with the number 0 for the whole batch, as where"
            " F.dropout has p=1",
        ),
        (Stop("no_grad()", "fc", "Net", "in"), "no_grad() in fc (Net) cuts off what runs in it"),
        (Stop("topk", "(loss)", "", "in"), "topk in (loss) picks positions, which have no slope"),
        (Stop("sample", "vae", "VAE", "in"), "sample in vae (VAE) has no gradient"),
        (Stop("histc", "net", "Net", "in"), "what histc in net (Net) returns has no gradient"),
        (
            Stop("Hard", "q", "Quantiser", "in", kind="none"),
            "Hard, a function of the model's own, passes no gradient on (hard in q (Quantiser))",
        ),
        (
            Stop("Sigmoid", "3", "Sigmoid", kind="rounding"),
            "the gradient has become too small for its number format at 3 (Sigmoid)",
        ),
        (
            Stop("Addmm", "fc", "Linear", kind="cancels"),
            "what comes back to fc (Linear) on several ways cancels to zero, as where it is divided"
            " by its own norm or sum, or taken from itself",
        ),
        (
            Stop("Atan2", "fc", "Linear", "behind"),
            "atan2 behind fc (Linear) gets zeros alone, where it has no slope",
        ),
        (
            Stop("NativeBatchNorm", "bn", "BatchNorm1d", kind="weights"),
            "the weights of bn (BatchNorm1d) are all zero and stay so",
        ),
        (
            Stop("Maximum", "fc", "Linear", "behind"),
            "maximum behind fc (Linear) takes the other one of the two for all that comes in with a"
            " gradient",
        ),
        (
            Stop("Prod", "fc", "Linear", "behind"),
            "prod behind fc (Linear) has more than one factor of 0, and so no slope in any",
        ),
    ],
)
def test_what_cuts_off_is_told_as_it_is(stop: Stop, because: str) -> None:
    cause = cause_of_stop(stop)
    assert cause is not None
    assert cause.because == because


def test_of_an_operation_of_the_graph_that_is_not_known_nothing_is_said() -> None:
    assert cause_of_stop(Stop("Hypot", "fc", "Linear", "behind")) is None


def test_each_parameter_has_its_own_reason() -> None:
    stops = (
        Stop("detach", "net", "Net", "in", parameters=("a",)),
        Stop("argmax", "net", "Net", "in", parameters=("b", "c")),
    )
    argmax, detach = cause_of_stop(stops[1]), cause_of_stop(stops[0])
    assert argmax
    assert detach
    assert cause_of_silence("a", stops) == detach
    assert cause_of_silence("bc", stops) == argmax
    assert cause_of_silence("d", stops) is None
    assert cause_of_silence("abcd", stops) == Cause(
        f"{argmax.because} (b and c); {detach.because} (a)",
        f"{argmax.advice}; {detach.advice}",
        certain=True,
    )
    saturated = cause_of_stop(Stop("Tanh", "1", "Tanh"))
    assert saturated is not None
    assert not saturated.certain

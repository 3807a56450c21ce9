"""Each rule judges a look that was made by hand: it is a function of what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from pytest_gradhealth.results.diagnosis import Limit
from pytest_gradhealth.results.first_step import FirstStep
from pytest_gradhealth.results.holdings import Holdings
from pytest_gradhealth.results.learning import Learning
from pytest_gradhealth.results.magnitudes import LossScale, MagnitudeRecord
from pytest_gradhealth.results.non_finite import NonFinite
from pytest_gradhealth.results.path import GradientPath, PathPoint
from pytest_gradhealth.results.profile import (
    ActivationRecord,
    GradientProfile,
    OutputRecord,
    ParameterRecord,
    Update,
)
from pytest_gradhealth.results.times import TimeRecord
from pytest_gradhealth.rules import built_in_rules
from pytest_gradhealth.rules.rule import Evidence


def path(*norms: float, name: str = "{}") -> GradientPath:
    points = [PathPoint(name.format(i), "Linear", (8, 4), norm, 32) for i, norm in enumerate(norms)]
    return GradientPath(tuple(points), points[0])


def weight(name: str, state: Any = "gradient", **sizes: Any) -> ParameterRecord:
    return ParameterRecord(name, (4, 4), state, **{"norm": 1.0, **sizes})


ATTENTION = {"att.q_proj.weight": 1e-9, "att.k_proj.weight": 1e-9, "att.v_proj.weight": 1.0}
#: What is seen of a model, the limits, and what is found: by rule.
SEEN: dict[str, tuple[dict[str, Any], Mapping[str, float], tuple[str, str]]] = {
    "GH101": (
        {"paths": (path(1e-7, 1.0),)},
        {"min_ratio": 1e-5, "warn_min_ratio": 1e-3},
        ("failure", "0"),
    ),
    "GH102": (
        {"times": (TimeRecord("rnn", "RNN", tuple(0.5**d for d in range(28)), dependency=27),)},
        {"min_ratio": 1e-5, "warn_min_ratio": 1e-3},
        ("failure", "rnn"),
    ),
    "GH103": (
        {"parameters": (weight("fc.weight", gradient=1e-12),)},
        {"eps": 1e-8},
        ("failure", "fc"),
    ),
    "GH201": (
        {"paths": (path(1e7, 1.0),)},
        {"max_ratio": 1e3, "warn_max_ratio": 1e2},
        ("failure", "0"),
    ),
    "GH202": (
        {"updates": (Update(1, 2.3, gradient=7e5, clipped=7e5, layer="fc1", change=340.0),)},
        {"max_update": 1},
        ("failure", "fc1"),
    ),
    "GH203": (
        {"magnitude": 4e4},
        {"max_output": 1e3, "warn_max_output": 1e2},
        ("failure", "(output)"),
    ),
    "GH301": (
        {"loss": math.nan, "non_finite": NonFinite("forward", "layers.2", "Exp", "inf")},
        {},
        ("failure", "layers.2"),
    ),
    "GH401": (
        {
            "outputs": (OutputRecord("stem", "Linear", "unreached"),),
            "parameters": (weight("stem.weight", "none"),),
        },
        {},
        ("failure", "stem"),
    ),
    "GH402": (
        {
            "paths": (path(1.0, name="act"),),
            "activations": (ActivationRecord("act", "ReLU", "ReLU", 64, dead=0.98, point="act"),),
        },
        {"max_dead": 0.95},
        ("failure", "act"),
    ),
    "GH403": (
        {"activations": (ActivationRecord("act", "Tanh", "Tanh", 64, flat=0.97),)},
        {"max_saturated": 0.995},
        ("warning", "act"),
    ),
    "GH404": (
        {"spread": 2e-6},
        {"min_spread": 5e-6, "warn_min_spread": 1e-4},
        ("failure", "(output)"),
    ),
    "GH405": (
        {
            "outputs": (OutputRecord("pooler", "Linear", "not-called"),),
            "parameters": (weight("pooler.weight", "none"),),
        },
        {},
        ("warning", "pooler"),
    ),
    "GH406": (
        {"parameters": (weight("fc.weight", gradient=1.0, same=True),)},
        {},
        ("failure", "fc"),
    ),
    "GH407": (
        {
            "outputs": (OutputRecord("att.v_proj", "Linear", "measured", (8, 5, 4), tokens=1e-6),),
            "parameters": tuple(weight(n, gradient=g) for n, g in ATTENTION.items()),
        },
        {},
        ("warning", "att"),
    ),
    "GH408": ({"unregistered": ((20, 8), (20,))}, {}, ("warning", "(output)")),
    "GH409": ({"unwritten": ("fc.weight",)}, {}, ("failure", "fc")),
    "GH501": (
        {
            "magnitudes": (MagnitudeRecord("fc", "Linear", -40, (8, 90, 2)),),
            "loss_scale": LossScale("float16", 1.0),
        },
        {"max_underflow": 0.5},
        ("failure", "fc"),
    ),
    "GH601": (
        {
            "paths": (path(1.0, name="fc"),),
            "parameters": (weight("fc.weight", norm=2.0, gradient=0.1, penalty=40.0),),
        },
        {"max_penalty": 10},
        ("failure", "fc"),
    ),
    "GH603": (
        {"first_step": FirstStep(2.3, 80.0, gain=0.2, critical=0.05, rates=(0.1,), carry=1.0)},
        {"max_rate": 10, "warn_max_rate": 5},
        ("failure", "(output)"),
    ),
    "GH602": (
        {
            "parameters": (weight("fc.weight", gradient=1.0),),
            "holdings": Holdings(missing=("fc.weight",)),
        },
        {},
        ("failure", "fc"),
    ),
    "GH604": (
        {"learning": Learning(60, (2.3,) * 60, "stuck", goal=2.07, held_against="start")},
        {},
        ("failure", "(loss)"),
    ),
}


@pytest.mark.parametrize("rule", built_in_rules(), ids=lambda rule: rule.code)
def test_a_look_is_judged(rule: Any) -> None:
    seen, limits, found = SEEN[rule.code]
    look = GradientProfile(**{"seed": 0, "steps": 0, "loss": 2.3, "paths": (), **seen})
    given = {name: Limit(value, "default") for name, value in limits.items()}
    assert [(f.severity, f.layer) for f in rule.check(Evidence(look, None, given))] == [found]

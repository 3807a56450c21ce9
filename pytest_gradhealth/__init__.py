"""A linter for the gradients of PyTorch models. PYTEST_DONT_REWRITE.

Importing the package imports neither torch nor pytest: every name is loaded when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_gradhealth.asserts import (
        assert_all_reached,
        assert_finite_gradients,
        assert_healthy,
        assert_no_exploding,
        assert_no_vanishing,
    )
    from pytest_gradhealth.diagnosis import probe
    from pytest_gradhealth.errors import (
        ExplodingGradientError,
        GradientHealthError,
        NonFiniteGradientError,
        ProbeError,
        SettingError,
        UnreachedParameterError,
        VanishingGradientError,
    )
    from pytest_gradhealth.fixture import GradHealth
    from pytest_gradhealth.records import (
        Diagnosis,
        Finding,
        GradientPath,
        GradientProfile,
        PathPoint,
    )
    from pytest_gradhealth.rules import Evidence, Rule, built_in_rules

_HOMES = {
    "asserts": (
        "assert_all_reached",
        "assert_finite_gradients",
        "assert_healthy",
        "assert_no_exploding",
        "assert_no_vanishing",
    ),
    "diagnosis": ("probe",),
    "errors": (
        "ExplodingGradientError",
        "GradientHealthError",
        "NonFiniteGradientError",
        "ProbeError",
        "SettingError",
        "UnreachedParameterError",
        "VanishingGradientError",
    ),
    "fixture": ("GradHealth",),
    "records": ("Diagnosis", "Finding", "GradientPath", "GradientProfile", "PathPoint"),
    "rules": ("Evidence", "Rule", "built_in_rules"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Diagnosis",
    "Evidence",
    "ExplodingGradientError",
    "Finding",
    "GradHealth",
    "GradientHealthError",
    "GradientPath",
    "GradientProfile",
    "NonFiniteGradientError",
    "PathPoint",
    "ProbeError",
    "Rule",
    "SettingError",
    "UnreachedParameterError",
    "VanishingGradientError",
    "assert_all_reached",
    "assert_finite_gradients",
    "assert_healthy",
    "assert_no_exploding",
    "assert_no_vanishing",
    "built_in_rules",
    "probe",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

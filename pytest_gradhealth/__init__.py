"""A linter for the gradients of PyTorch models. PYTEST_DONT_REWRITE.

Importing the package imports neither torch nor pytest: every name is loaded when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_gradhealth.assertions import (
        assert_all_reached,
        assert_finite_gradients,
        assert_healthy,
        assert_matches_baseline,
        assert_no_dominating_regularizer,
        assert_no_exploding,
        assert_no_exploding_update,
        assert_no_underflow,
        assert_no_vanishing,
        assert_no_vanishing_in_time,
    )
    from pytest_gradhealth.config.options import Option
    from pytest_gradhealth.errors import (
        AttentionCollapseError,
        CannotApplyError,
        CollapsedOutputError,
        DeadUnitsError,
        DominatingRegularizerError,
        ExplodingGradientError,
        ExplodingOutputError,
        ExplodingUpdateError,
        GradientHealthError,
        IdenticalUnitsError,
        MissingBaselineError,
        NegligibleGradientError,
        NonFiniteGradientError,
        ProbeError,
        RegressionError,
        SaturatedUnitsError,
        SettingError,
        UnderflowError,
        UnreachedParameterError,
        UnregisteredParameterError,
        UnusedParameterError,
        VanishingGradientError,
        VanishingInTimeError,
    )
    from pytest_gradhealth.formatting import View
    from pytest_gradhealth.plugin.fixture import GradHealth
    from pytest_gradhealth.probing.probe import probe
    from pytest_gradhealth.remedies import Patient, Remedy, built_in_remedies
    from pytest_gradhealth.remedies.trial import suggest
    from pytest_gradhealth.reporting.json_report import read_report
    from pytest_gradhealth.reporting.run import Probe, Run
    from pytest_gradhealth.results.diagnosis import Diagnosis, Finding, Measure, Treatment
    from pytest_gradhealth.results.path import GradientPath, PathPoint
    from pytest_gradhealth.results.profile import GradientProfile, TimeRecord, Update
    from pytest_gradhealth.rules import Evidence, Rule, built_in_rules
    from pytest_gradhealth.rules.rule import Cause, Quantity

_HOMES = {
    "assertions": (
        "assert_all_reached",
        "assert_finite_gradients",
        "assert_healthy",
        "assert_matches_baseline",
        "assert_no_dominating_regularizer",
        "assert_no_exploding",
        "assert_no_exploding_update",
        "assert_no_underflow",
        "assert_no_vanishing",
        "assert_no_vanishing_in_time",
    ),
    "config.options": ("Option",),
    "errors": (
        "AttentionCollapseError",
        "CannotApplyError",
        "CollapsedOutputError",
        "DeadUnitsError",
        "DominatingRegularizerError",
        "ExplodingGradientError",
        "ExplodingOutputError",
        "ExplodingUpdateError",
        "GradientHealthError",
        "IdenticalUnitsError",
        "MissingBaselineError",
        "NegligibleGradientError",
        "NonFiniteGradientError",
        "ProbeError",
        "RegressionError",
        "SaturatedUnitsError",
        "SettingError",
        "UnderflowError",
        "UnreachedParameterError",
        "UnregisteredParameterError",
        "UnusedParameterError",
        "VanishingGradientError",
        "VanishingInTimeError",
    ),
    "formatting": ("View",),
    "plugin.fixture": ("GradHealth",),
    "probing.probe": ("probe",),
    "remedies": (
        "Patient",
        "Remedy",
        "built_in_remedies",
    ),
    "remedies.trial": ("suggest",),
    "reporting.json_report": ("read_report",),
    "reporting.run": (
        "Probe",
        "Run",
    ),
    "results.diagnosis": (
        "Diagnosis",
        "Finding",
        "Measure",
        "Treatment",
    ),
    "results.path": (
        "GradientPath",
        "PathPoint",
    ),
    "results.profile": (
        "GradientProfile",
        "TimeRecord",
        "Update",
    ),
    "rules": ("Evidence", "Rule", "built_in_rules"),
    "rules.rule": ("Cause", "Quantity"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "View",
    "Quantity",
    "Option",
    "Cause",
    "AttentionCollapseError",
    "CannotApplyError",
    "CollapsedOutputError",
    "DeadUnitsError",
    "Diagnosis",
    "DominatingRegularizerError",
    "Evidence",
    "ExplodingGradientError",
    "ExplodingOutputError",
    "ExplodingUpdateError",
    "Finding",
    "GradHealth",
    "GradientHealthError",
    "IdenticalUnitsError",
    "GradientPath",
    "GradientProfile",
    "Measure",
    "MissingBaselineError",
    "NegligibleGradientError",
    "NonFiniteGradientError",
    "PathPoint",
    "Patient",
    "Probe",
    "ProbeError",
    "RegressionError",
    "Remedy",
    "Rule",
    "Run",
    "SaturatedUnitsError",
    "SettingError",
    "TimeRecord",
    "Treatment",
    "UnderflowError",
    "UnreachedParameterError",
    "UnregisteredParameterError",
    "UnusedParameterError",
    "Update",
    "VanishingGradientError",
    "VanishingInTimeError",
    "assert_all_reached",
    "assert_finite_gradients",
    "assert_healthy",
    "assert_matches_baseline",
    "assert_no_dominating_regularizer",
    "assert_no_exploding",
    "assert_no_exploding_update",
    "assert_no_underflow",
    "assert_no_vanishing",
    "assert_no_vanishing_in_time",
    "built_in_remedies",
    "built_in_rules",
    "probe",
    "read_report",
    "suggest",
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

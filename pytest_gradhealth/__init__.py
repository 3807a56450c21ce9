"""A linter for the gradients of PyTorch models. PYTEST_DONT_REWRITE.

Importing the package imports neither torch nor pytest: every name is loaded when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_gradhealth.assertions import assert_all_reached as assert_all_reached
    from pytest_gradhealth.assertions import assert_finite_gradients as assert_finite_gradients
    from pytest_gradhealth.assertions import assert_healthy as assert_healthy
    from pytest_gradhealth.assertions import assert_learns as assert_learns
    from pytest_gradhealth.assertions import assert_matches_baseline as assert_matches_baseline
    from pytest_gradhealth.assertions import (
        assert_no_dominating_regularizer as assert_no_dominating_regularizer,
    )
    from pytest_gradhealth.assertions import assert_no_exploding as assert_no_exploding
    from pytest_gradhealth.assertions import (
        assert_no_exploding_update as assert_no_exploding_update,
    )
    from pytest_gradhealth.assertions import assert_no_underflow as assert_no_underflow
    from pytest_gradhealth.assertions import assert_no_vanishing as assert_no_vanishing
    from pytest_gradhealth.assertions import (
        assert_no_vanishing_in_time as assert_no_vanishing_in_time,
    )
    from pytest_gradhealth.assertions import assert_same_gradients as assert_same_gradients
    from pytest_gradhealth.config.options import Option as Option
    from pytest_gradhealth.errors import *  # noqa: F403
    from pytest_gradhealth.formatting import View as View
    from pytest_gradhealth.plugin.fixture import GradHealth as GradHealth
    from pytest_gradhealth.probing.probe import probe as probe
    from pytest_gradhealth.remedies import Patient as Patient
    from pytest_gradhealth.remedies import Remedy as Remedy
    from pytest_gradhealth.remedies import built_in_remedies as built_in_remedies
    from pytest_gradhealth.remedies.trial import suggest as suggest
    from pytest_gradhealth.reporting.json_report import read_report as read_report
    from pytest_gradhealth.reporting.run import Probe as Probe
    from pytest_gradhealth.reporting.run import Run as Run
    from pytest_gradhealth.results.agreement import Agreement as Agreement
    from pytest_gradhealth.results.agreement import Difference as Difference
    from pytest_gradhealth.results.diagnosis import Diagnosis as Diagnosis
    from pytest_gradhealth.results.diagnosis import Finding as Finding
    from pytest_gradhealth.results.diagnosis import Measure as Measure
    from pytest_gradhealth.results.diagnosis import Treatment as Treatment
    from pytest_gradhealth.results.path import GradientPath as GradientPath
    from pytest_gradhealth.results.path import PathPoint as PathPoint
    from pytest_gradhealth.results.profile import GradientProfile as GradientProfile
    from pytest_gradhealth.results.profile import Update as Update
    from pytest_gradhealth.results.times import TimeRecord as TimeRecord
    from pytest_gradhealth.rules import Evidence as Evidence
    from pytest_gradhealth.rules import Rule as Rule
    from pytest_gradhealth.rules import built_in_rules as built_in_rules
    from pytest_gradhealth.rules.rule import Cause as Cause
    from pytest_gradhealth.rules.rule import Quantity as Quantity

    __all__: list[str]

#: The public names, by the module that each is loaded from when it is used; exceptions apart.
HOMES = {
    "assertions": (
        "assert_all_reached assert_finite_gradients assert_healthy assert_learns "
        "assert_matches_baseline assert_no_dominating_regularizer assert_no_exploding "
        "assert_no_exploding_update assert_no_underflow assert_no_vanishing "
        "assert_no_vanishing_in_time assert_same_gradients"
    ),
    "config.options": "Option",
    "formatting": "View",
    "plugin.fixture": "GradHealth",
    "probing.probe": "probe",
    "remedies": "Patient Remedy built_in_remedies",
    "remedies.trial": "suggest",
    "reporting.json_report": "read_report",
    "reporting.run": "Probe Run",
    "results.agreement": "Agreement Difference",
    "results.diagnosis": "Diagnosis Finding Measure Treatment",
    "results.path": "GradientPath PathPoint",
    "results.profile": "GradientProfile Update",
    "results.times": "TimeRecord",
    "rules": "Evidence Rule built_in_rules",
    "rules.rule": "Cause Quantity",
}
_HOME_OF = {name: home for home, names in HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF and name != "__all__" and not name.endswith(("Error", "Warning")):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    home = import_module(f"{__name__}.{_HOME_OF.get(name, 'errors')}")
    if not hasattr(home, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(home, name)
    globals()[name] = value = sorted([*_HOME_OF, *value]) if name == "__all__" else value
    return value


def __dir__() -> list[str]:
    return list(__getattr__("__all__"))

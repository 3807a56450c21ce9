"""The thresholds of the built-in rules, and how close a path comes to them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pytest_gradhealth.findings import Limit
from pytest_gradhealth.gradient_path import GradientPath
from pytest_gradhealth.records import GradientProfile
from pytest_gradhealth.settings import Settings

#: Ratios, first layer over last, with Adam or an unknown optimizer; change of a weight in one step
#: over the weight; gradient of the penalty over that of the data; RMS of the outputs, and their
#: spread over the batch; shares of dead and of saturated units. examples/study/RESULTS.md shows
#: where they come from.
DEFAULTS = {
    "min_ratio": 1e-5,
    "warn_min_ratio": 1e-3,
    "max_ratio": 1e3,
    "warn_max_ratio": 1e2,
    "max_update": 1.0,
    "max_penalty": 10.0,
    "max_output": 1e3,
    "warn_max_output": 1e2,
    "min_spread": 5e-6,
    "warn_min_spread": 1e-4,
    "max_dead": 0.95,
    "max_saturated": 0.995,
    "max_underflow": 0.5,
}
#: The setting that a rule's value is compared with.
SETTING_OF = {
    "GH101": "min_ratio",
    "GH102": "min_ratio",
    "GH201": "max_ratio",
    "GH202": "max_update",
    "GH203": "max_output",
    "GH402": "max_dead",
    "GH403": "max_saturated",
    "GH501": "max_underflow",
    "GH404": "min_spread",
    "GH601": "max_penalty",
}
#: What differs with SGD, whose steps shrink with the gradient.
WITH_SGD = {"min_ratio": 3e-5}

#: Decades from a limit within which one seed does not decide.
CLOSE = 0.3
#: Variance of the log squared norm over seeds, 5 * sum(1 / width) for ReLU (Hanin 2018), above
#: which one seed does not decide either.
NARROW = 1.0


def limits_of(settings: Settings, *, sgd: bool, eps: Limit | None = None) -> dict[str, Limit]:
    """Return the thresholds by setting name, each with its source.

    `eps` is that of the declared optimizer, which is a limit of its own.
    """
    found = {} if eps is None else {"eps": eps}
    for name, default in DEFAULTS.items():
        value = getattr(settings, name, None)
        if value is not None:
            found[name] = Limit(value, settings.source(name))
        elif sgd and name in WITH_SGD:
            found[name] = Limit(WITH_SGD[name], "default with SGD")
        else:
            found[name] = Limit(default, "default")
    return found


def leaves_doubt(profile: GradientProfile, limits: Mapping[str, Limit]) -> bool:
    """Whether another seed could decide otherwise: a value near a limit, or a narrow net."""
    return any(_is_close(p, limits) or _is_narrow(p) for p in profile.judged_paths)


def _is_close(path: GradientPath, limits: Mapping[str, Limit]) -> bool:
    return any(
        abs(value - math.log10(limit.value)) < CLOSE
        for name, limit in limits.items()
        if name.endswith("ratio")
        for value in [path.vanishing if "min" in name else path.exploding]
    )


def _is_narrow(path: GradientPath) -> bool:
    widths = [point.width for point in path.points if point.width is not None]
    return 5 * sum(1 / width for width in widths[:-1]) > NARROW

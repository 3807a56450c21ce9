"""The thresholds of the built-in rules, and how close a path comes to them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pytest_gradhealth.config.options import DEFAULTS, WITH_SGD
from pytest_gradhealth.config.settings import Settings
from pytest_gradhealth.results.diagnosis import Limit
from pytest_gradhealth.results.path import GradientPath
from pytest_gradhealth.results.profile import GradientProfile

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

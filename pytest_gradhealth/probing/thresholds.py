"""The thresholds that rules are given, and how close a path comes to them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from pytest_gradhealth.config.options import FIXED_LIMITS, OPTIONS
from pytest_gradhealth.config.settings import Settings
from pytest_gradhealth.results.diagnosis import Limit
from pytest_gradhealth.results.path import GradientPath
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules.rule import Rule, own_settings

#: Decades from a limit within which one seed does not decide.
CLOSE = 0.3
#: Variance of the log squared norm over seeds, 5 * sum(1 / width) for ReLU (Hanin 2018), above
#: which one seed does not decide either.
NARROW = 1.0


def limits_of(
    settings: Settings, rules: Iterable[Rule], *, sgd: bool, eps: Limit | None = None
) -> dict[str, Limit]:
    """Return the thresholds by setting name, each with its source.

    Those of the table of options and those that rules bring along; `eps`, that of the declared
    optimizer, is a limit of its own.
    """
    found = {} if eps is None else {"eps": eps}
    found |= {name: Limit(value, "default") for name, value in FIXED_LIMITS.items()}
    for option in (*OPTIONS, *own_settings(rules)):
        if option.use == "limit":
            found[option.name] = settings.limit(option, sgd=sgd)
    return found


def leaves_doubt(profile: GradientProfile, limits: Mapping[str, Limit]) -> bool:
    """Whether another seed could decide otherwise: a value near a limit, or a narrow net."""
    return any(_is_close(p, limits) or _is_narrow(p) for p in profile.judged_paths)


def _is_close(path: GradientPath, limits: Mapping[str, Limit]) -> bool:
    values = {
        "min_ratio": path.vanishing,
        "warn_min_ratio": path.vanishing,
        "max_ratio": path.exploding,
        "warn_max_ratio": path.exploding,
    }
    return any(
        abs(value - math.log10(limits[name].value)) < CLOSE for name, value in values.items()
    )


def _is_narrow(path: GradientPath) -> bool:
    widths = [point.width for point in path.points if point.width is not None]
    return 5 * sum(1 / width for width in widths[:-1]) > NARROW

"""What a rule is told to ignore: layers and parameters by patterns of their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import accumulate

from pytest_gradhealth.results.profile import GradientProfile

#: Numbers of output and call behind a name.
_NUMBERS = re.compile(r"(:\d+)?(#\d+)?$")


def matches(label: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern is one for a layer, for a parameter, or for a module around it.

    >>> matches("encoder.fc.weight", ["enc*.fc"]), matches("encoder.fc#2", ["*.fc"])
    (True, True)
    >>> matches("encoder.fc2", ["encoder.fc"])
    False
    """
    around = accumulate(_NUMBERS.sub("", label).split("."), "{}.{}".format)
    names = {label, *around}
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def without(profile: GradientProfile, patterns: Sequence[str]) -> GradientProfile:
    """A look without the records of layers and parameters that patterns are for."""
    return replace(
        profile,
        parameters=tuple(p for p in profile.parameters if not matches(p.name, patterns)),
        activations=tuple(a for a in profile.activations if not matches(a.name, patterns)),
        magnitudes=tuple(m for m in profile.magnitudes if not matches(m.name, patterns)),
        times=tuple(t for t in profile.times if not matches(t.name, patterns)),
    )

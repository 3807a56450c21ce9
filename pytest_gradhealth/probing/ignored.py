"""What a rule is told to ignore: layers and parameters by patterns of their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase

from pytest_gradhealth.config.settings import Settings, parts_of
from pytest_gradhealth.errors import SettingError
from pytest_gradhealth.formatting import listing
from pytest_gradhealth.results.names import LOSS, OUTPUT, OUTPUTS, ancestry
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules import built_in_rules

#: Numbers of output and call behind a name.
_NUMBERS = re.compile(r"(:\d+)?(#\d+)?$")


def matches(label: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern is one for a layer, for a parameter, or for a module around it.

    >>> matches("encoder.fc.weight", ["enc*.fc"]), matches("encoder.fc#2", ["*.fc"])
    (True, True)
    >>> matches("encoder.fc2", ["encoder.fc"])
    False
    """
    names = {label, *ancestry(_NUMBERS.sub("", label))}
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


def check_patterns(settings: Settings, profiles: Iterable[GradientProfile]) -> None:
    """Raise SettingError for a pattern of a call that fits nothing in the model of the call.

    Those of markers, the command line and ini files are for many models.
    """
    if settings.source("ignore") != "the call":
        return
    patterns = {}
    for item in settings.ignore:
        code, pattern = parts_of(item)
        if pattern and any(rule.code.startswith(code) for rule in built_in_rules()):
            patterns[item] = pattern  # the rules of others may name whatever they like
    labels = {*_labels(profiles)} if patterns else ()
    for item, pattern in patterns.items():
        if not any(matches(label, [pattern]) for label in labels):
            raise SettingError(
                f"the call: ignore = {item!r} fits no layer and no parameter of the model;"
                f" {_proposal(pattern, labels)}"
            )


def _labels(profiles: Iterable[GradientProfile]) -> Iterator[str]:
    """All names that a rule may see, and those of what is no layer."""
    yield from (OUTPUT, OUTPUTS, LOSS)
    for profile in profiles:
        for records in (profile.parameters, profile.outputs, profile.activations, profile.times):
            yield from (record.name for record in records)
        yield from (point.label for path in profile.paths for point in path.points)


def _proposal(pattern: str, labels: Iterable[str]) -> str:
    """What was meant, the name of something inside or one that is much the same, or what is."""
    plain = {_NUMBERS.sub("", label) for label in labels}
    names = sorted({n for label in plain for n in ancestry(label)}, key=lambda n: (len(n), n))
    ends = [name for name in names if f".{name}".lower().endswith(f".{pattern.lower()}")]
    for name in (*ends, *get_close_matches(pattern, names, n=1)):
        return f"did you mean {name!r}?"
    outermost = {name for name in names if "." not in name and name[:1] != "("}
    return f"its parts are {listing(sorted(outermost))}"

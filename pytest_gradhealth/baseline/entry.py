"""What is kept of a probe: its gradient paths in decades, the verdict, and how it was measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pytest_gradhealth.results.diagnosis import Diagnosis, Verdict
from pytest_gradhealth.results.path import GradientPath
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.results.serialization import AtLeast

#: Decimals of a decade that are kept: a hundredth is 2 %.
DECIMALS = 2


@dataclass(frozen=True)
class KeptPoint:
    """One layer of a path: `norm` is the L2 norm of its gradient in decades (log10)."""

    layer: str
    type: str
    norm: float

    @property
    def title(self) -> str:
        """Name and type: "layers.3 (Linear)"."""
        return f"{self.layer} ({self.type})"


@dataclass(frozen=True)
class KeptPath:
    """A gradient path from the first layer to the loss; `ratio` is first over last in decades."""

    ratio: float
    points: Annotated[tuple[KeptPoint, ...], AtLeast(1)]

    @property
    def first(self) -> KeptPoint:
        """The layer that the path is about."""
        return self.points[0]


@dataclass(frozen=True)
class Entry:
    """What a baseline keeps of one check.

    `paths` are those that were judged; `output` is the RMS of the model's outputs in decades, None
    without any to compare. `limits` and `environment` are information, which no comparison reads.
    """

    verdict: Verdict
    paths: tuple[KeptPath, ...]
    output: float | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def entry_of(
    diagnosis: Diagnosis, environment: Mapping[str, str], look: GradientProfile | None = None
) -> Entry:
    """Reduce a diagnosis to what a baseline keeps: by default the first look under its seed.

    >>> from pytest_gradhealth.results.path import GradientPath, PathPoint
    >>> from pytest_gradhealth.results.profile import GradientProfile
    >>> first = PathPoint("0", "Linear", (8, 4), norm=0.01, numel=32)
    >>> last = PathPoint("1", "Linear", (8, 4), norm=1.0, numel=32)
    >>> look = GradientProfile(0, 0, 2.3, paths=(GradientPath((first, last), entry=first),))
    >>> entry_of(Diagnosis("Net", "healthy", (), (look,)), {}).paths[0].ratio
    -2.0
    """
    return Entry(
        verdict=diagnosis.verdict,
        paths=tuple(_paths(look or diagnosis.profile)),
        output=None
        if (size := (look or diagnosis.profile).lasting_magnitude) is None
        else _decades(size),
        limits={name: limit.value for name, limit in sorted(diagnosis.limits.items())},
        environment={"device": diagnosis.device, "optimizer": diagnosis.optimizer, **environment},
    )


def _paths(look: GradientProfile) -> Iterator[KeptPath]:
    for path in look.judged_paths:
        points = tuple(KeptPoint(p.label, p.type, _decades(p.norm)) for p in path.points)
        yield KeptPath(_rounded(_ratio(path)), points)


def _ratio(path: GradientPath) -> float:
    return path.l2 if path.finite else math.nan


def _decades(norm: float) -> float:
    if norm == 0:
        return -math.inf
    if norm < 0:  # in a report that somebody has changed
        return math.nan
    return _rounded(math.log10(norm)) if math.isfinite(norm) else norm


def _rounded(value: float) -> float:
    return round(value, DECIMALS) + 0.0 if math.isfinite(value) else value

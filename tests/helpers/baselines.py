"""Baselines: entries made by hand, drawn at random and measured."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from pytest_gradhealth import Diagnosis, probe
from pytest_gradhealth.baseline.comparison import Comparison, compare
from pytest_gradhealth.baseline.entry import Entry, KeptParameters, KeptPath, KeptPoint
from pytest_gradhealth.results.diagnosis import Limit

PATH, STEP = Limit(0.5, "default"), Limit(1.0, "the call")
NAMES = st.text(max_size=12)
DECADES = st.floats(-12, 12).map(lambda x: round(x, 2))
NORMS = DECADES | st.sampled_from([math.inf, -math.inf, math.nan])
POINTS = st.builds(KeptPoint, NAMES, st.sampled_from(["Linear", "ReLU", "Conv2d"]), NORMS)
PATHS = st.builds(
    KeptPath, NORMS, st.lists(POINTS, min_size=1, max_size=8).map(tuple), st.booleans()
)
USES = st.sampled_from(["gradient", "inside", "idle", "frozen", "zero", "uncalled", "none"])
PARAMETERS = st.lists(
    st.builds(KeptParameters, NAMES, USES, st.integers(0, 99)),
    max_size=3,
    unique_by=lambda kept: kept.layer,
)
ENTRIES = st.builds(
    Entry,
    st.sampled_from(["healthy", "not judged", "warning", "failure"]),
    st.lists(PATHS, max_size=3).map(tuple),
    st.none() | DECADES,
    st.dictionaries(NAMES, st.floats(0.1, 10)),
    st.dictionaries(NAMES, NAMES),
    st.none() | PARAMETERS.map(tuple),
    st.integers(0, 9),
    st.booleans(),
)


def path(*points: tuple[str, str, float]) -> KeptPath:
    kept = tuple(KeptPoint(*point) for point in points)
    return KeptPath(kept[0].norm - kept[-1].norm, kept)


def entry(*paths: KeptPath, verdict: str = "healthy") -> Entry:
    return Entry(verdict, paths)  # type: ignore[arg-type]


PLAIN = path(("0", "Linear", -1.0), ("1", "ReLU", -0.8), ("2", "Linear", -0.4))


def compared(before: KeptPath, after: KeptPath) -> Comparison:
    return compare(entry(before), entry(after), PATH, STEP)


def diagnosed(activation: type[nn.Module] = nn.ReLU, layers: int = 3) -> Diagnosis:
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Linear(16, 16), activation()]
    x = torch.randn(8, 16)
    y = torch.arange(8) % 4
    return probe(nn.Sequential(*parts, nn.Linear(16, 4)), x, y, loss=cross_entropy)

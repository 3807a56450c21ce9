"""The operators' part of the study: trainings, and what is said at their start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from examples.study.measurement import measure
from examples.study.network import Network
from examples.study.operators.faults import operators
from examples.study.operators.truth import trained
from examples.study.stages import SEEDS, Stage


def networks() -> dict[str, Network]:
    """Every operator, and every right transformer once, by side and name."""
    sick = {f"sick:{fault.sick.name}": fault.sick for fault in operators().values()}
    cured = {f"cured:{fault.cured.name}": fault.cured for fault in operators().values()}
    return sick | cured


def keys() -> list[str]:
    """Side, name and seed, one seed of each first."""
    return [f"{name}@{seed}" for seed in SEEDS for name in networks()]


def train(key: str) -> Mapping[str, Any]:
    """Train one transformer from one seed."""
    name, _, seed = key.rpartition("@")
    return {"runs": trained(networks()[name], int(seed))}


def probe_operator(key: str) -> Mapping[str, Any]:
    """What is said of one transformer that begins from one seed."""
    name, _, seed = key.rpartition("@")
    return measure(networks()[name], int(seed))


OPERATORS = (
    Stage("operators-training", keys, train),
    Stage("operators", keys, probe_operator),
)

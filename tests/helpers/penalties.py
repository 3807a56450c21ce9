"""Penalties whose gradients can be worked out by hand, and what a probe measured of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from pytest_gradhealth import Diagnosis, Finding, probe
from tests.helpers.nets import ONES, total

Penalty = Callable[[nn.Module], Any]


def ridge(strength: float) -> Penalty:
    return lambda model: strength * sum(p.square().sum() for p in model.parameters())


def lasso(strength: float) -> Penalty:
    return lambda model: strength * sum(p.abs().sum() for p in model.parameters())


def of_rule(diagnosis: Diagnosis, severity: str = "failure") -> list[Finding]:
    return [f for f in diagnosis.findings if f.code == "GH601" and f.severity == severity]


def penalty_of(diagnosis: Diagnosis, name: str = "0.weight") -> float | None:
    (record,) = (p for p in diagnosis.profile.parameters if p.name == name)
    return record.penalty


def measured(model: nn.Module, optimizer: Any = None, regularizer: Penalty | None = None) -> float:
    diagnosis = probe(
        model, ONES, loss=total, optimizer=optimizer, regularizer=regularizer, clip=1e9
    )
    found = penalty_of(diagnosis)
    assert found is not None
    return found

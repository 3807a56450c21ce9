"""Counts behind the study's tables: recall, false alarms, areas under the curve, intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from examples.study.corpus import Recipe, recipe
from examples.study.journal import Record
from examples.study.trainability import Run, Truth


@dataclass(frozen=True)
class Judged:
    """A random network, what training made of it and what was measured."""

    recipe: Recipe
    truth: Truth
    record: Record

    @property
    def label(self) -> str:
        """What trains it."""
        return self.truth.label

    @property
    def sgd(self) -> bool:
        """Whether SGD does."""
        return self.label in ("both", "sgd")


@dataclass(frozen=True)
class Share:
    """So many of so many."""

    count: int
    of: int

    @property
    def value(self) -> float:
        """The share, NaN of nothing."""
        return self.count / self.of if self.of else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95% confidence interval (Wilson 1927)."""
        if not self.of:
            return 0.0, 1.0
        z, n, p = 1.96, self.of, self.value
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return max(0.0, middle - half), min(1.0, middle + half)

    def __str__(self) -> str:
        """Counts, share and interval; nothing of nothing."""
        if not self.of:
            return ""
        low, high = self.interval
        return f"{self.count} of {self.of} ({self.value:.1%}; {low:.1%} to {high:.1%})"


def joined(training: Mapping[str, Record], measured: Mapping[str, Record]) -> list[Judged]:
    """Put truth and measurement together."""
    found = []
    for key, record in training.items():
        runs = tuple(Run(**run) for run in record["runs"])
        found.append(Judged(recipe(int(key)), Truth(int(key), runs), measured[key]))
    return sorted(found, key=lambda judged: judged.recipe.number)


def share(networks: Sequence[Judged], test: Callable[[Judged], bool]) -> Share:
    """How many of some networks pass a test."""
    return Share(sum(map(test, networks)), len(networks))


def fails(judged: Judged, codes: Sequence[str] | None = None) -> bool:
    """Whether the linter fails a network, by any rule or by some."""
    failing = [code for code, severity, *_ in judged.record["findings"] if severity == "failure"]
    return any(codes is None or code in codes for code in failing)


def fails_with_sgd(judged: Judged) -> bool:
    """Whether it fails a network where SGD is declared."""
    return bool(judged.record["with SGD"] == "failure")


def statistic(judged: Judged, name: str) -> float:
    """A statistic of a network; what could not be compared counts as the worst."""
    value = float(judged.record["statistics"][name])
    return math.inf if math.isnan(value) else value


def area(sick: Sequence[float], healthy: Sequence[float]) -> float:
    """Area under the ROC curve: how often a sick network reads worse than a healthy one."""
    wins = sum((a > b) + 0.5 * (a == b) for a in sick for b in healthy)
    return wins / (len(sick) * len(healthy))


def limit_for(healthy: Sequence[float], allowed: float) -> float:
    """The lowest limit that at most a share `allowed` of the healthy exceed."""
    ordered = sorted(healthy, reverse=True)
    return ordered[min(int(allowed * len(ordered)), len(ordered) - 1)]

"""A tool beside the linter: its rules, each a formula of an observation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from examples.study.peers.observation import Observation, ParameterSeen

About = Literal["gradients", "loss", "activations", "weights", "updates"]
Level = Literal["error", "warning"]

#: Of the SGD whose first update stands for an optimizer's: the default of Keras.
LEARNING_RATE = 1e-2


@dataclass(frozen=True)
class PeerRule:
    """One formula. `about` says what it compares with a threshold, `level` what the tool makes of
    it: an error, or a warning beside a tool's errors.
    """

    name: str
    fires: Callable[[Observation], bool]
    about: About = "gradients"
    level: Level = "error"


@dataclass(frozen=True)
class Peer:
    """A tool, as of a version, and the file that its formulas were read in."""

    name: str
    version: str
    source: str
    rules: tuple[PeerRule, ...]

    def judge(self, observation: Observation, *about: About) -> tuple[str, ...]:
        """Return the names of the rules that fire, of those `about` something (default: all)."""
        return tuple(
            rule.name
            for rule in self.rules
            if (not about or rule.about in about) and rule.fires(observation)
        )


def reached(observation: Observation) -> list[ParameterSeen]:
    """Return the parameters that a gradient arrived at."""
    return [p for p in observation.parameters if not p.grad_none]


def kernels_of(observation: Observation) -> list[ParameterSeen]:
    """Return those of them that are kernels."""
    return [p for p in reached(observation) if p.is_kernel]


def quotient(value: float, by: float) -> float:
    """Divide as numpy does."""
    if by == 0:
        return math.nan if value == 0 or math.isnan(value) else math.inf
    return value / by


def any_nonfinite(parameters: Iterable[ParameterSeen]) -> bool:
    """Whether a gradient has nan or inf."""
    return any(not p.finite for p in parameters)


def invalid_loss(observation: Observation) -> bool:
    """DeepDiagnosis, invalid loss, and TheDeepChecker: the loss is nan or inf."""
    return not math.isfinite(observation.loss)

"""Loss and gradient norms as they are, for a comparison within a relative tolerance.

Such numbers hold on one type of device and in one number format: each pair has its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pytest_gradhealth.formatting import shortened
from pytest_gradhealth.results.diagnosis import Diagnosis
from pytest_gradhealth.results.names import OUTPUT
from pytest_gradhealth.results.profile import GradientProfile

#: What the loss is called.
LOSS = "the loss"
#: Digits that are kept beyond those that a tolerance asks for, and the fewest, for a finer one.
_SPARE, _FEWEST = 1, 6


@dataclass(frozen=True)
class KeptNorm:
    """The L2 norm of a gradient: of a layer's own parameters, or at a point of a path."""

    layer: str
    norm: float


@dataclass(frozen=True)
class KeptNumbers:
    """What was measured on one type of device in one number format."""

    loss: float
    parameters: tuple[KeptNorm, ...]
    points: tuple[KeptNorm, ...]

    def named(self) -> Mapping[str, float]:
        """All numbers by what they are."""
        found = {LOSS: self.loss}
        found |= {_of(p.layer): p.norm for p in self.parameters}
        return found | {_at(p.layer): p.norm for p in self.points}

    def taken_over(self, known: Mapping[str, float]) -> KeptNumbers:
        """The same with some known numbers, by what they are."""
        return KeptNumbers(
            known.get(LOSS, self.loss),
            tuple(replace(p, norm=known.get(_of(p.layer), p.norm)) for p in self.parameters),
            tuple(replace(p, norm=known.get(_at(p.layer), p.norm)) for p in self.points),
        )


def _of(layer: str) -> str:
    return f"the gradient of {shortened(layer, 60)}"


def _at(layer: str) -> str:
    return f"the gradient at {shortened(layer, 60)}"


def place_of(diagnosis: Diagnosis) -> str:
    """The type of device and the number format that the numbers of a diagnosis hold for.

    >>> from pytest_gradhealth.results.profile import GradientProfile
    >>> look = GradientProfile(0, 0, 2.3, paths=())
    >>> place_of(Diagnosis("Net", "healthy", (), (look,), device="cuda:1", format="bfloat16"))
    'cuda bfloat16'
    """
    return f"{diagnosis.device.partition(':')[0]} {diagnosis.format}"


def numbers_of(look: GradientProfile, rtol: float) -> KeptNumbers:
    """The numbers of a look, with the digits that a tolerance asks for; with 0, all."""
    norms: dict[str, float] = {}
    for parameter in look.parameters:
        if parameter.gradient is not None:
            layer = parameter.module or OUTPUT
            norms[layer] = math.hypot(norms.get(layer, 0.0), parameter.gradient)
    points = {p.label: p.norm for path in look.uncut or look.paths for p in path.points}
    return KeptNumbers(
        _rounded(look.loss, rtol),
        tuple(KeptNorm(layer, _rounded(norm, rtol)) for layer, norm in norms.items()),
        tuple(KeptNorm(layer, _rounded(norm, rtol)) for layer, norm in points.items()),
    )


def _rounded(value: float, rtol: float) -> float:
    if rtol <= 0 or not math.isfinite(value):
        return value
    return float(f"{value:.{max(_FEWEST, math.ceil(-math.log10(rtol)) + 1 + _SPARE)}g}")

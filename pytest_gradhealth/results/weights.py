"""How the elements of a parameter are distributed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

#: Significant digits that a baseline keeps.
DIGITS = 4


@dataclass(frozen=True)
class WeightRecord:
    """A parameter as it was before any step: mean, standard deviation and the share of zeros.

    `kurtosis` is the fourth moment over the variance squared, 3 for a normal distribution; it says
    how far the standard deviation of so many `elements` differs from draw to draw. `distinct` is
    the share of them that are no copies of others.
    """

    name: str
    elements: int
    mean: float
    std: float
    zeros: float
    kurtosis: float
    distinct: float = 1.0

    def short(self) -> WeightRecord:
        """The same with the digits that a baseline keeps."""
        return replace(
            self,
            mean=_short(self.mean),
            std=_short(self.std),
            zeros=_short(self.zeros),
            kurtosis=_short(self.kurtosis),
            distinct=_short(self.distinct),
        )


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else value

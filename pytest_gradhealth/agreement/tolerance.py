"""Up to which distance two tensors count as the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_gradhealth.agreement.distances import Distances
from pytest_gradhealth.agreement.side import Place

#: How far rounding may part two sides, over how far it parts a from itself. What rounding does in
#: the direction of a tensor itself is a part of that only: there, half as much.
MARGIN = 4.0
#: Beyond this distance, where a margin would let zeros pass for a gradient, it is a smaller one.
WIDE, NARROW = 0.5, 2.0
#: From how many numbers on they have directions enough.
MANY = 17


@dataclass(frozen=True)
class Noise:
    """How far rounding parts a from itself, run by run, and what no run shows.

    That is the least distance, in rounding `units`. Where every operation was `seen` to round,
    directions tell rounding from a factor.
    """

    runs: Sequence[Distances]
    units: float
    seen: bool

    def at(self, place: Place) -> float:
        """The largest distance at a place."""
        found = [run.at(place) for run in self.runs]
        return math.nan if any(map(math.isnan, found)) else max(found)


@dataclass(frozen=True)
class Tolerance:
    """Up to which distance two tensors are the same: as declared, None for what rounding does."""

    rtol: float | None = None
    atol: float = 0.0

    def at(self, place: Place, found: Distances, noise: Noise) -> float:
        """The largest distance at a place of what was found, relative to the scale of a's tensor.

        What is faint beside others of its kind may be nothing but rounding.
        """
        own = self._of_rounding(place, found, noise) if self.rtol is None else self.rtol
        scale = found.scale(place)
        return own + (self.atol / scale if scale else 0.0)

    def _of_rounding(self, place: Place, found: Distances, noise: Noise) -> float:
        size, gap, faint = noise.at(place), found.gap(place), found.faint(place)
        wide = MARGIN * size
        if faint:
            wide = max(wide, faint)
        else:
            wide = min(wide, max(WIDE, NARROW * size))
            wide /= 1 + gap.coherence**2 if noise.seen and gap.size >= MANY else 1
        return wide if math.isnan(wide) else max(wide, noise.units * found.unit)

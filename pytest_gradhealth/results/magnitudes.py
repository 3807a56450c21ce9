"""Gradients by powers of two, beside what number formats can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class NumberFormat:
    """A floating format by powers of two: the smallest and the largest that it can hold."""

    lowest: int
    highest: int


#: Formats whose effect on gradients can be forecast; subnormal numbers count.
FORMATS: Mapping[str, NumberFormat] = {
    "float16": NumberFormat(-24, 15),
    "bfloat16": NumberFormat(-133, 127),
}


@dataclass(frozen=True)
class LossScale:
    """What the loss is multiplied by in training, and the format that is for ("" if unknown).

    `adapts` is that of a GradScaler.
    """

    format: str = ""
    value: float = 1.0
    adapts: bool = False

    @property
    def exponent(self) -> int:
        """The power of two that the scale amounts to, rounded down."""
        return math.frexp(self.value)[1] - 1


@dataclass(frozen=True)
class MagnitudeRecord:
    """How many elements of a gradient there are by powers of two, zeros left out.

    `counts[i]` elements lie in [2**(low + i), 2**(low + i + 1)); `type` is that of the module whose
    output it is, or "weight".
    """

    name: str
    type: str
    low: int
    counts: tuple[int, ...]

    @property
    def title(self) -> str:
        """Name and type: "layers.3 (Linear)"; a weight's name says it all."""
        return self.name if self.type == "weight" else f"{self.name} ({self.type})"

    @property
    def high(self) -> int:
        """The largest power of two with elements."""
        return self.low + len(self.counts) - 1

    def flushed(self, kind: str, shift: int) -> float:
        """Share of the elements that become zero in a format once multiplied by 2**shift.

        Half of the smallest number is rounded to zero (ties to even).
        """
        return self._below(FORMATS[kind].lowest - 1 - shift, 0) / max(1, sum(self.counts))

    def lost(self, kind: str, shift: int) -> float:
        """Share of the L2 norm that goes with them, to within an octave."""
        all_ = self._below(self.high + 1, 2)
        return math.sqrt(self._below(FORMATS[kind].lowest - 1 - shift, 2) / all_) if all_ else 0.0

    def needs(self, kind: str, share: float) -> int:
        """The least shift at which no more than a share is flushed."""
        allowed, below = share * sum(self.counts), 0
        for index, count in enumerate(self.counts):
            below += count
            if below > allowed:
                return FORMATS[kind].lowest - 1 - self.low - index
        return FORMATS[kind].lowest - 1 - self.high

    def _below(self, exponent: int, power_: int) -> float:
        """Sum over the elements below 2**exponent of a power of their size, over the largest."""
        return math.fsum(
            count * 2.0 ** (power_ * (index + 1 - len(self.counts)))
            for index, count in enumerate(self.counts)
            if self.low + index < exponent
        )

"""How far two ways of computing one model agree, number by number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

#: What is compared: what a layer returns, the outputs of the model, its loss, and gradients at what
#: a layer returns, of a parameter, and of an input that requires one.
Kind = Literal[
    "activation", "output", "loss", "layer gradient", "parameter gradient", "input gradient"
]


@dataclass(frozen=True)
class Difference:
    """One tensor on both sides: L2 norms, and how far they lie apart.

    `distance` is the L2 norm of the difference over that of a's, `cosine` that of the angle between
    them, `largest` the largest difference of one element over a's largest; `repeated` is the
    distance of two runs of a, `rounded` that of a with its weights rounded otherwise. `tolerance`
    is the distance up to which they count as the same. `only` says which side alone returns it.
    """

    kind: Kind
    name: str
    a: float
    b: float
    distance: float
    cosine: float
    largest: float
    repeated: float
    rounded: float
    tolerance: float
    only: Literal["", "a", "b"] = ""

    @property
    def agrees(self) -> bool:
        """Whether the distance is within the tolerance; NaN on one side is not."""
        return self.distance == 0 or self.distance <= self.tolerance

    @property
    def decides(self) -> bool:
        """Whether it tells the sides apart; what layers pass on may be laid out otherwise."""
        return self.kind not in ("activation", "layer gradient")

    @property
    def ratio(self) -> float:
        """The norm of b's over that of a's."""
        return self.b / self.a if self.a else (math.inf if self.b else 1.0)

    @property
    def digits(self) -> float:
        """How many decimal digits agree, of 17 at most."""
        return min(17.0, max(0.0, -math.log10(self.distance))) if self.distance else 17.0


@dataclass(frozen=True)
class Agreement:
    """What was compared of two sides, forward before backward, each in the order of its pass.

    `a` and `b` say what the sides are, `unit` is the rounding unit of the coarser of their formats,
    named `format`. Where another seed changes a as much as b differs from it, `redrawn` says so;
    `without_dropout` that dropout was off on both sides.
    `only_a` and `only_b` name parameters that have no partner, `frozen_a` and `frozen_b` those that
    the other side alone trains. `layers` says whether layers were
    compared beside parameters, `declared` whether the tolerance is the caller's.
    """

    a: str
    b: str
    differences: tuple[Difference, ...]
    format: str
    unit: float
    declared: bool = False
    layers: bool = True
    redrawn: bool = False
    without_dropout: bool = False
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    frozen_a: tuple[str, ...] = ()
    frozen_b: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether outputs, loss and the gradients of all parameters agree."""
        return all(difference.agrees for difference in self.differences if difference.decides)

    @property
    def apart(self) -> tuple[Difference, ...]:
        """What does not agree, in the order of the passes; nothing where the sides do."""
        return () if self.same else tuple(d for d in self.differences if not d.agrees)

    def of(self, *kinds: Kind) -> tuple[Difference, ...]:
        """The differences of some kinds."""
        return tuple(d for d in self.differences if d.kind in kinds)

    @property
    def repeats(self) -> float:
        """The largest distance between two runs of a alone."""
        return max((d.repeated for d in self.differences if d.rounded < 1), default=0.0)

    def __str__(self) -> str:
        from pytest_gradhealth.reporting.agreement import table

        return table(self)

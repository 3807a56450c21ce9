"""How far the tensors of two runs lie apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from pytest_gradhealth.agreement.side import Place, Reading

#: Up to how many rounding units beside all others a tensor may be nothing but rounding; in coarse
#: formats, whose sums are gathered in float32, up to one.
FAINT, COARSE = 10.0, 1e-5


class Distances:
    """How far the tensors of a run lie from those of a first one, in terms of the first's norm.

    What is below a rounding unit beside all others of its kind counts as of that norm.
    """

    def __init__(self, first: Reading, other: Reading, unit: float) -> None:
        self._first, self._other = first, other
        totals: dict[str, float] = {}
        for (kind, *_), tensor in first.items():
            numbers = exact(tensor)
            finite = numbers[numbers.isfinite()]
            totals[kind] = math.hypot(totals.get(kind, 0.0), norm(finite))
        self._faint = FAINT if unit < COARSE else 1.0
        self._least = {kind: total * unit for kind, total in totals.items()}

    def places(self, parameters: Iterable[str]) -> Iterator[Place]:
        """What is compared: what both have, outputs and gradients of parameters that either has."""
        either = {("parameter gradient", name, 0, 0) for name in parameters}
        for place in self._first | self._other:
            if (
                place[0] == "output"
                or place in either
                or (place in self._first and place in self._other)
            ):
                yield place

    def pair(self, place: Place) -> tuple[Tensor, Tensor]:
        """The first's tensor and the other's, in float64; zeros for a gradient that is not there.

        What is infinite or NaN on both sides is left out.
        """
        mine, theirs = self._first.get(place), self._other.get(place)
        known = [tensor for tensor in (mine, theirs) if tensor is not None]
        if not known:
            return torch.zeros(0), torch.zeros(0)
        x, y = (exact(torch.zeros_like(known[0]) if t is None else t) for t in (mine, theirs))
        if x.shape != y.shape:
            return x, y
        alike = (x == y) | (x.isnan() & y.isnan())
        both = ~(alike & ~x.isfinite())
        return x[both], y[both]

    def scale(self, place: Place) -> float:
        """What the distance at a place is relative to."""
        return max(norm(self.pair(place)[0]), self._least.get(place[0], 0.0))

    def faint(self, place: Place) -> float:
        """The distance that rounding beside the others of a kind may make, 0 where it is little."""
        least = self._faint * self._least.get(place[0], 0.0)
        return over(least, self.scale(place)) if norm(self.pair(place)[0]) < least else 0.0

    def at(self, place: Place) -> float:
        """The distance at a place: NaN where one is not finite, or larger."""
        x, y = self.pair(place)
        return math.nan if x.shape != y.shape else over(norm(y - x), self.scale(place))


def exact(tensor: Tensor) -> Tensor:
    """All numbers of a tensor in float64, on the host."""
    plain = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return plain.to("cpu", torch.float64).reshape(-1)


def norm(tensor: Tensor) -> float:
    """The L2 norm of all numbers of a tensor."""
    return float(torch.linalg.vector_norm(exact(tensor)))


def over(part: float, whole: float) -> float:
    """A quotient of norms: 0 for nothing, infinite over nothing."""
    if part == 0 or whole == 0:
        return 0.0 if part == 0 else math.inf
    return part / whole

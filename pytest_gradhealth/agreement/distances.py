"""How far the tensors of two runs lie apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pytest_gradhealth.agreement.side import Place, Reading

#: Up to how many rounding units beside all others a tensor may be nothing but rounding; in coarse
#: formats, whose sums are gathered in float32, up to one.
FAINT, COARSE = 10.0, 1e-5


@dataclass(frozen=True)
class Gap:
    """L2 norms of two tensors and of their difference, over all that is finite in one of them.

    `largest` is the largest element of the difference over that of the first; `apart` is NaN for
    tensors of two shapes.
    """

    a: float = 0.0
    b: float = 0.0
    apart: float = 0.0
    largest: float = 0.0
    size: int = 0

    @property
    def cosine(self) -> float:
        """The cosine of the angle between the two, NaN where there is none."""
        whole = 2 * self.a * self.b
        return (self.a**2 + self.b**2 - self.apart**2) / whole if whole else math.nan

    @property
    def coherence(self) -> float:
        """The cosine of the angle between the first and the difference, 0 where there is none."""
        whole = 2 * self.a * self.apart
        if not whole or not math.isfinite(whole):
            return 0.0
        return (self.b**2 - self.a**2 - self.apart**2) / whole


class Distances:
    """How far the tensors of a run lie from those of a first one, in terms of the first's norm.

    What is below a rounding unit beside all others of its kind counts as of that norm.
    """

    def __init__(self, first: Reading, other: Reading, unit: float) -> None:
        self.unit = unit
        self._first, self._other = first.keys(), other.keys()
        self._gaps = {place: _gap(first, other, place) for place in first | other}
        totals: dict[str, float] = {}
        for (kind, *_), tensor in first.items():
            size = norm(tensor)
            totals[kind] = math.hypot(totals.get(kind, 0.0), size if math.isfinite(size) else 0.0)
        self._faint = FAINT if unit < COARSE else 1.0
        self._least = {kind: total * unit for kind, total in totals.items()}

    def places(self, parameters: Iterable[str]) -> Iterator[Place]:
        """What is compared: what both have, outputs and gradients of parameters that either has."""
        either = {("parameter gradient", name, 0, 0) for name in parameters}
        for place in self._gaps:
            both = place in self._first and place in self._other
            if both or place[0] == "output" or place in either:
                yield place

    def only(self, place: Place) -> Literal["", "a", "b"]:
        """Which of the runs alone has made it."""
        if place in self._first and place in self._other:
            return ""
        return "a" if place in self._first else "b"

    def gap(self, place: Place) -> Gap:
        """The two tensors at a place, nothing for what neither has."""
        return self._gaps.get(place, Gap())

    def scale(self, place: Place) -> float:
        """What the distance at a place is relative to."""
        return max(self.gap(place).a, self._least.get(place[0], 0.0))

    def faint(self, place: Place) -> float:
        """The distance that rounding beside the others of a kind may make, 0 where it is little."""
        least = self._faint * self._least.get(place[0], 0.0)
        return over(least, self.scale(place)) if self.gap(place).a < least else 0.0

    def at(self, place: Place) -> float:
        """The distance at a place: NaN where one is not finite, or larger."""
        return over(self.gap(place).apart, self.scale(place))


def _gap(first: Reading, other: Reading, place: Place) -> Gap:
    mine, theirs = first.get(place), other.get(place)
    known = mine if mine is not None else theirs
    assert known is not None
    x, y = (_numbers(torch.zeros_like(known) if t is None else t) for t in (mine, theirs))
    if x.shape != y.shape:
        return Gap(norm(x), norm(y), math.nan, math.nan, x.numel())
    found = _between(x, y)
    if math.isfinite(found.a + found.b):
        return found
    alike = (x == y) | (x.isnan() & y.isnan())
    both = ~(alike & ~x.isfinite())
    return _between(x[both], y[both])


def _between(x: Tensor, y: Tensor) -> Gap:
    difference = y - x
    largest = over(_largest(difference), _largest(x))
    return Gap(norm(x), norm(y), norm(difference), largest, x.numel())


def _numbers(tensor: Tensor) -> Tensor:
    """The numbers of a tensor on the host, in a format in which the difference of two is exact."""
    plain = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    exact = (
        torch.float32
        if plain.dtype.is_floating_point and plain.dtype.itemsize < 8
        else torch.float64
    )
    return plain.to("cpu", exact)


def norm(tensor: Tensor) -> float:
    """The L2 norm of all numbers of a tensor, summed up in float64."""
    return float(torch.linalg.vector_norm(_numbers(tensor).double()))


def _largest(numbers: Tensor) -> float:
    return max(abs(float(end)) for end in numbers.aminmax()) if numbers.numel() else 0.0


def over(part: float, whole: float) -> float:
    """A quotient of norms: 0 for nothing, infinite over nothing."""
    if part == 0 or whole == 0:
        return 0.0 if part == 0 else math.inf
    return part / whole

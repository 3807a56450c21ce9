"""A gradient path: the layers from the first one to the loss, and the norms on the way.

Norms are L2 norms. *Decades* are base-10 logarithms of ratios: a gradient that arrives a thousand
times smaller has lost 3 decades.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from pytest_gradhealth.formatting import listing
from pytest_gradhealth.results.names import OUTPUTS
from pytest_gradhealth.results.serialization import AtLeast

#: Share of the trainable elements up to which a part beside a trunk fails no model.
SMALL_PART = 0.05
#: Norm of a gradient that the number format has all but rounded to zero.
FAINT = 1e-30


def decades(numerator: float, denominator: float) -> float:
    """Return log10(numerator / denominator) of two norms without overflow.

    A zero numerator gives -inf, also over zero (nothing arrived); what is no finite norm gives NaN.

    >>> decades(1e-200, 1e200)
    -400.0
    """
    if not (0 <= numerator < math.inf and 0 <= denominator < math.inf):
        return math.nan
    if numerator == 0:
        return -math.inf
    if denominator == 0:
        return math.inf
    return math.log10(numerator) - math.log10(denominator)


def power(exponent: float) -> float:
    """Return 10**exponent, saturating at 0 and inf instead of raising OverflowError."""
    if exponent > 308.25:
        return math.inf
    return 0.0 if exponent < -323.3 else float(10.0**exponent)


def label_of(name: str, call: int, output: int) -> str:
    """What one calls a module's output: its name, with numbers from the second ones on."""
    return name + (f":{output}" if output else "") + (f"#{call}" if call else "")


@dataclass(frozen=True)
class PathPoint:
    """One module output on a gradient path, with the gradient of the loss with respect to it.

    `norm` is the gradient's L2 norm and `activation` that of the output itself; `call` counts the
    calls of the same module in one forward, `output` the tensors that one call returned. `leaf` is
    the type of the innermost module that returned this very tensor, `ops` the functions applied to
    it outside of any recorded module before the next point, and `width` the number of units (times
    the kernel size of a convolution), where the module has a weight.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    norm: float
    numel: Annotated[int, AtLeast(1)]
    call: int = 0
    output: int = 0
    activation: float = math.nan
    leaf: str = ""
    ops: tuple[str, ...] = ()
    width: int | None = None

    @property
    def key(self) -> tuple[str, int, int]:
        """Name, call and output number: the same tensor in every look at a model."""
        return self.name, self.call, self.output

    @property
    def label(self) -> str:
        """The name, with the numbers of output and call from the second ones on: "lstm:1#2"."""
        return label_of(*self.key)

    @property
    def title(self) -> str:
        """Label and type: "layers.3 (Linear)"."""
        return f"{self.label} ({self.type})"

    @property
    def rms(self) -> float:
        """Root mean square of the gradient's elements."""
        return self.norm / math.sqrt(self.numel)


def together(points: Sequence[PathPoint]) -> PathPoint:
    """Several points taken for one."""
    if len(points) == 1:
        return points[0]
    numel = sum(point.numel for point in points)
    return PathPoint(
        name=OUTPUTS,
        type=listing([point.label for point in points]),
        shape=(numel,),
        norm=math.hypot(*(point.norm for point in points)),
        numel=numel,
        activation=math.hypot(*(point.activation for point in points)),
    )


def l2_decades(point: PathPoint, reference: PathPoint) -> float:
    """Decades between the L2 norms of two points' gradients."""
    return decades(point.norm, reference.norm)


def rms_decades(point: PathPoint, reference: PathPoint) -> float:
    """Decades between the root mean squares of two points' gradients."""
    return l2_decades(point, reference) - 0.5 * math.log10(point.numel / reference.numel)


@dataclass(frozen=True)
class GradientPath:
    """The module outputs that every way from the loss to one first layer crosses.

    `points` run from the first layer to the loss, or to where a loop begins. `entry` is the first
    point with what all calls of its layer get together, where that is called again and again as a
    recurrent cell is. A path that is not `judged` starts at an output that does not depend on the
    batch (a position bias, say), or has nothing left behind a loop, and is only reported. `beside`
    is the share of the trainable elements in layers of its own, where it only joins branches of
    another path; None for a trunk. `layers` are the points up to the last layers with weights,
    taken for one, where what is behind those has none; else there are none.
    """

    points: Annotated[tuple[PathPoint, ...], AtLeast(1)]
    entry: PathPoint
    judged: bool = True
    beside: float | None = None
    layers: tuple[PathPoint, ...] = ()

    @property
    def first(self) -> PathPoint:
        """The first layer's output (or the model input, when it requires grad)."""
        return self.points[0]

    @property
    def destination(self) -> str:
        """The title of the first layer, and whether all of its calls count."""
        together = ", all calls together" if self.entry.numel > self.first.numel else ""
        return self.entry.title + together

    @property
    def last(self) -> PathPoint:
        """The point nearest to the loss."""
        return self.points[-1]

    @property
    def links(self) -> int:
        """Number of steps from point to point."""
        return len(self.points) - 1

    @property
    def ratio(self) -> float:
        """L2 norm of the gradient at the first point over that at the last."""
        return self._over_last(self.first)

    @property
    def l2(self) -> float:
        """The same in decades."""
        return l2_decades(self.first, self.last)

    @property
    def vanishing(self) -> float:
        """V, in decades: the larger of the L2 and RMS ratios, entry over last."""
        return self.reach(self.entry)

    @property
    def exploding(self) -> float:
        """X, in decades: the smaller of the L2 and RMS ratios, first over last with weights.

        A first call without any gradient (on padding, say) leaves its place to the entry.
        """
        return self.growth(self.first if self.first.norm else self.entry)

    def reach(self, point: PathPoint) -> float:
        """V of the part of the path from the loss to `point`."""
        return max(l2_decades(point, self.last), rms_decades(point, self.last))

    def growth(self, point: PathPoint) -> float:
        """X of the part of the path from the last layers with weights to `point`."""
        last = self.among_layers.last
        return min(l2_decades(point, last), rms_decades(point, last))

    @property
    def among_layers(self) -> GradientPath:
        """The same path up to the last layers with weights, if any gradient gets to these."""
        reached = self.layers and self.layers[-1].norm
        return replace(self, points=self.layers, layers=()) if reached else self

    @property
    def rate(self) -> float:
        """Geometric mean of the L2 factor per step towards the first layer."""
        return power(self.l2 / self.links) if self.links else 1.0

    @property
    def steps(self) -> tuple[float, ...]:
        """Decades gained from point i + 1 to point i, one per link, in the order of the points."""
        return tuple(
            l2_decades(nearer, farther)
            for nearer, farther in zip(self.points, self.points[1:], strict=False)
        )

    @property
    def silent_at(self) -> int | None:
        """Index of the point nearest to the loss whose gradient is exactly zero, None without.

        None too where the entry gets some: early steps of a recurrence may get nothing.
        """
        if self.entry.norm:
            return None
        zeros = [index for index, point in enumerate(self.points) if point.norm == 0]
        return zeros[-1] if zeros else None

    @property
    def share(self) -> float:
        """L2 norm of the gradient at the entry over that at the last point."""
        return self._over_last(self.entry)

    @property
    def arrival(self) -> float:
        """The same in decades."""
        return l2_decades(self.entry, self.last)

    @property
    def finite(self) -> bool:
        """Whether every norm on the path is a finite number."""
        return all(math.isfinite(point.norm) for point in self.points)

    def largest_step(self, *, down: bool) -> int | None:
        """Index of the point at which the gradient shrinks (`down`) or grows most in one step."""
        if not self.links:
            return None
        sign, steps = (1 if down else -1), self.steps
        return min(range(self.links), key=lambda i: (sign * steps[i], -i))

    def _over_last(self, point: PathPoint) -> float:
        if self.last.norm == 0:
            return 0.0 if point.norm == 0 else math.inf
        return point.norm / self.last.norm

    def crossing(self, limit: float, *, down: bool) -> PathPoint:
        """First point, coming from the loss, at which the running V (X) passes `limit` decades."""
        for point in reversed(self.points):
            if (self.reach(point) < limit) if down else (self.growth(point) > limit):
                return point
        return self.entry if down else self.first

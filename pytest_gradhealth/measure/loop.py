"""A loop that a gradient path runs through, as it is told of by its layers or by its weights."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_gradhealth.results.path import PathPoint

#: The share of a gradient that is enough to come through what layers beside its way have made.
KEPT = 0.1

#: One call of a module: its name, and the number of the call.
Call = tuple[str, int]


def call_of(point: PathPoint) -> Call:
    """The call that returned what a point was read at."""
    return point.name, point.call


@dataclass(frozen=True)
class Loop:
    """Layers that are called in turns, again and again, or one that has all the steps before it.

    As a fused one has, or a layer behind a loop that is written out with weights and no layers. A
    path ends at the mark `door`, with the first step or right before such a layer, and another
    begins at `start`. `calls` are all that the loop consists of, `steps` those behind the first
    step, and what lies between them; of several loops side by side, those of each. What no layers
    tell of it, its `weights` do, by their ids, of which layers beside its way may have `made` more.
    Where its way takes no weights, whether it is one of gates has to be tried out, from its `gate`
    on, the call at the door: they come from calls `beside` it, which get the share `felt` of the
    gradient, or of weights that are `bare`.
    """

    door: int
    start: int
    calls: frozenset[Call]
    steps: tuple[frozenset[Call], ...]
    weights: frozenset[int] = frozenset()
    made: bool = False
    gate: Call | None = None
    beside: frozenset[Call] = frozenset()
    felt: float = 0.0
    bare: bool = False

    @property
    def later(self) -> frozenset[Call]:
        """All that is behind the first steps."""
        return frozenset().union(*self.steps)

    @property
    def names(self) -> frozenset[str]:
        """The names of its modules."""
        return frozenset(name for name, _ in self.calls)

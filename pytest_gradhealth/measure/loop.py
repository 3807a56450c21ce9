"""A loop that a gradient path runs through, as it is told of by its layers or by its weights."""

from __future__ import annotations

from collections.abc import Mapping
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
class Gates:
    """What may close a way from the call at its `door` to those at its `ends`.

    By name, the `layers` that may make gates, and their share of the gradient; whether weights that
    are `bare` of layers may.
    """

    door: Call
    ends: frozenset[Call]
    layers: Mapping[str, float]
    bare: bool = False


@dataclass(frozen=True)
class Loop:
    """Layers that are called in turns, again and again, or one that has all the steps before it.

    As a fused one has, or a layer behind a loop that is written out with weights and no layers. A
    path ends at the mark `door`, with the first step or right before such a layer, and another
    begins at `start`. `calls` are all that the loop consists of, `steps` those behind the first
    step, and what lies between them; of several loops side by side, those of each. What no layers
    tell of it, its `weights` do, by their ids, of which layers beside its way may have `made` more.
    Where its way takes no weights, whether `gates` close it has to be tried out.
    """

    door: int
    start: int
    calls: frozenset[Call]
    steps: tuple[frozenset[Call], ...]
    weights: frozenset[int] = frozenset()
    made: bool = False
    gates: Gates | None = None

    @property
    def later(self) -> frozenset[Call]:
        """All that is behind the first steps."""
        return frozenset().union(*self.steps)

    @property
    def names(self) -> frozenset[str]:
        """The names of its modules; one of gates goes by the module at its door."""
        if self.gates is not None:
            return frozenset([f"behind {self.gates.door[0]}"])
        return frozenset(name for name, _ in self.calls)

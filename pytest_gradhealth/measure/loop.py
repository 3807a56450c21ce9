"""A loop that a gradient path runs through, as it is told of by its layers or by its weights."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_gradhealth.measure.recorder import Key
from pytest_gradhealth.results.path import PathPoint, label_of

#: One call of a module: its name, and the number of the call.
Call = tuple[str, int]


def call_of(point: PathPoint) -> Call:
    """The call that returned what a point was read at."""
    return point.name, point.call


@dataclass(frozen=True)
class Gates:
    """What may close a way from its `door` to its `ends`; `behind` the door is all on the way."""

    door: Key
    ends: frozenset[Key]
    behind: frozenset[Key]


@dataclass(frozen=True)
class Loop:
    """Layers that are called in turns, again and again, or one that has all the steps before it.

    As a fused one has, or a layer behind a loop that is written out with weights and no layers. A
    path ends at the mark `door`, with the first step or right before such a layer, and another
    begins at `start`. `calls` are all that the loop consists of, `steps` those behind the first
    step, and what lies between them; of several loops side by side, those of each. What no layers
    tell of it, its `weights` do, by their ids. Where its way takes none, `gates` may close it.
    """

    door: int
    start: int
    calls: frozenset[Call]
    steps: tuple[frozenset[Call], ...]
    weights: frozenset[int] = frozenset()
    gates: Gates | None = None

    @property
    def later(self) -> frozenset[Call]:
        """All that is behind the first steps."""
        return frozenset().union(*self.steps)

    @property
    def names(self) -> frozenset[str]:
        """The names of its modules; one of gates goes by the module at its door, and its output."""
        if self.gates is not None:
            name, _, output = self.gates.door
            return frozenset([f"behind {label_of(name, 0, output)}"])
        return frozenset(name for name, _ in self.calls)

"""How gradients fare through the steps of a sequence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pytest_gradhealth.results.path import decades
from pytest_gradhealth.results.serialization import AtLeast


@dataclass(frozen=True)
class TimeRecord:
    """How much of the gradient at the last state of a sequence reaches earlier steps.

    `name` and `type` are those of the layer that the sequence enters by; `norms[d]` is the L2 norm
    of the gradient at what it gets `d` steps before the end, RMS over the sequences that are so
    long. `dependency` is how far back the gradient has to reach; `reverse` is the backward
    direction of a bidirectional layer, whose end is the first step. `blank` lists the distances at
    which all that the layer gets is zero: padding, or the margin of an image. `cut` is after how
    many steps the state is cut off from the graph (by a detach, say), 0 where it is not.
    """

    name: str
    type: str
    norms: Annotated[tuple[float, ...], AtLeast(1)]
    dependency: int
    reverse: bool = False
    blank: tuple[Annotated[int, AtLeast(0)], ...] = ()
    cut: Annotated[int, AtLeast(0)] = 0

    @property
    def reach(self) -> float:
        """What gets `dependency` steps back or further, over the largest of all, in decades.

        Where a ReLU has seen nothing yet but zeros it has no slope: such steps do not count, and
        where there are no others so far back, the farthest that counts stands for them.
        """
        silent = {d for d in self.blank if d < len(self.norms) and self.norms[d] == 0}
        counting = [d for d in range(len(self.norms)) if d not in silent]
        if not counting:
            return -math.inf
        far = [d for d in counting if d >= self.dependency] or counting[-1:]
        return decades(max(self.norms[d] for d in far), max(self.norms))

    @property
    def finite(self) -> bool:
        """Whether every norm is a finite number."""
        return all(map(math.isfinite, self.norms))

    def horizon(self, limit: float) -> int:
        """How many steps back at most `limit` decades of the gradient get."""
        return max(d for d, n in enumerate(self.norms) if decades(n, max(self.norms)) >= limit)

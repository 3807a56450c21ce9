"""What the first step of the declared optimizers does to the loss of its own batch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FirstStep:
    """A step that raises the loss of its own batch, where a shorter one lowers it.

    The loss goes from `before` to `after`; on the way there it falls by `gain` at most. It is lower
    than before up to the share `critical` of the step. `rates` are the learning rates, each once;
    `carry` is what steps of a constant gradient come to over the first, which momentum makes
    longer, None for optimizers whose steps do not shrink with the gradient. `typed` is how the
    optimizer is made, with {} for its rate, "" where its groups differ.
    """

    before: float
    after: float
    gain: float
    critical: float
    rates: tuple[float, ...] = ()
    carry: float | None = None
    typed: str = ""

    @property
    def excess(self) -> float:
        """How many times too long it is: the rate over the critical rate."""
        return 1 / self.critical

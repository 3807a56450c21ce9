"""Where the first NaN or infinity came up, and of what."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pytest_gradhealth.results.serialization import AtLeast


@dataclass(frozen=True)
class NonFinite:
    """Where the first NaN or infinity came up.

    `during` is "forward", "loss" or "backward"; `layer` the module that produced it; `op` the
    operation, where known; `parameter` a parameter or buffer of that module that is itself not
    finite (of the loss: "targets"). `taken` is the kind of what the operation got ("" for finite
    numbers), `fed` the numbers that it made the first such value of, if it goes by elements,
    `elements` how many it takes for one else, `format` that of its numbers and `behind` the
    operations that made the zeros in the last thing that it got. In the backward of an operation
    all that is of the one `within`, which `made` such a value, or of one in the forward, whose
    value was `dropped` before it got to the loss.
    """

    during: Literal["forward", "loss", "backward"]
    layer: str
    type: str
    value: str
    op: str = ""
    parameter: str = ""
    taken: str = ""
    fed: tuple[float, ...] = ()
    elements: Annotated[int, AtLeast(0)] | None = None
    format: str = ""
    behind: tuple[str, ...] = ()
    within: str = ""
    made: str = ""
    dropped: bool = False

    @property
    def first(self) -> float:
        """The first of the numbers that the operation got, NaN where they are not known."""
        return self.fed[0] if self.fed else math.nan

    @property
    def last(self) -> float:
        """The last of them: what is divided by, what a logarithm is taken of."""
        return self.fed[-1] if self.fed else math.nan

"""What a fall of a loss is held against."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Yardstick:
    """What a fall of the loss is held against; NaN is what cannot be told.

    `constant` is the least loss that one answer for all examples can have, `spread` how far the
    losses of single examples lie apart. A loss that can be negative has an arbitrary zero.
    `answer` is the best one, where the model has a single output and that is known. A constant that
    is `guessed` is the loss at the start, in place of one that cannot be told.
    """

    constant: float = math.nan
    spread: float = math.nan
    can_be_negative: bool = False
    answer: tuple[float, ...] = ()
    guessed: bool = False

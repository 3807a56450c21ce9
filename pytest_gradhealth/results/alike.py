"""From where on in a forward the examples of a batch are alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Alike:
    """From where on in a forward the examples of a batch are alike.

    `at` says whether the "inputs" are already, what a module gets ("before" it) or returns
    ("behind" it; by its "bias", if they are apart without), or whether they come closer together
    "by and by" until then, or mostly "between" modules.
    """

    at: Literal["inputs", "before", "behind", "bias", "by and by", "between"]
    layer: str = ""
    type: str = ""

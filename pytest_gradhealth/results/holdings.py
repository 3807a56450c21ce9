"""What the optimizers that were declared hold of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: Who made them: the caller, a function of the caller's from the parameters that it was given, or
#: the `configure_optimizers` of a Lightning module.
Maker = Literal["caller", "factory", "configure_optimizers"]


@dataclass(frozen=True)
class Holdings:
    """What some optimizers hold, by names of parameters.

    None of them holds the `missing` ones, though they require grad; one of them has those that are
    held `twice` two times in one group, and those that stand `still` in a group with a learning
    rate of zero alone. `foreign` are the shapes of what they hold and the model does not.
    """

    maker: Maker = "caller"
    missing: tuple[str, ...] = ()
    twice: tuple[str, ...] = ()
    still: tuple[str, ...] = ()
    foreign: tuple[tuple[int, ...], ...] = ()

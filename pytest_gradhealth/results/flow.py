"""Which layers use what a layer returns: the connections of a network as its gradient sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pytest_gradhealth.results.serialization import AtLeast


@dataclass(frozen=True)
class FlowRecord:
    """A layer, and what the gradient comes to it from.

    `users` are the layers that use what it returns with no other in between, or the loss itself:
    modules with parameters of their own. It was called `calls` times, `reached` of which gradient
    has come to. A record that was never called is no layer: it stands for its users in others, as
    the sum behind a shortcut stands for all that reads it.
    """

    layer: str
    users: tuple[str, ...]
    calls: Annotated[int, AtLeast(0)] = 0
    reached: Annotated[int, AtLeast(0)] = 0

"""What keeps the gradient from parameters that get none, or nothing but zeros."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pytest_gradhealth.results.serialization import AtLeast

#: What a function of the model's own passes on, that a gradient is too small for its format, that
#: what comes back on several ways cancels, or is the same for all of what always has the same sum,
#: or that a layer's weights are all zero.
StopKind = Literal["", "zeros", "none", "rounding", "cancels", "even", "weights"]


@dataclass(frozen=True)
class Stop:
    """An operation that lets no gradient through to some parameters: zeros alone, or none at all.

    `layer` and `type` are the module that does it or, of a function, the one it is `at`. `elements`
    is how many it levels together (a softmax, say) or, of a rectifier, how many it passes on.
    `zeros` names the tensor that a product has its zeros of, "0" where that is one number.
    """

    op: str
    layer: str
    type: str = ""
    at: Literal["", "behind", "in"] = ""
    kind: StopKind = ""
    elements: Annotated[int, AtLeast(0)] | None = None
    parameters: tuple[str, ...] = ()
    zeros: str = ""

    @property
    def in_graph(self) -> bool:
        """Whether it has a node in the graph; what has none, as a detach(), is named as typed."""
        return self.op[:1].isupper()

    @property
    def levels(self) -> bool:
        """Whether it levels one element with itself, and so returns the same whatever comes in."""
        return self.elements == 1 and self.op != "Relu"

    @property
    def typed(self) -> str:
        """The operation as it is typed."""
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.op).lower()
        return re.sub("^native_|_cachemask$|_copy$|r[23]d$", "", words)

    @property
    def where(self) -> str:
        """The operation as one would point at it: "5 (Tanh)", "tanh behind fc1 (Linear)"."""
        title = f"{self.layer} ({self.type})" if self.type else self.layer
        return f"{self.typed} {self.at} {title}" if self.at else title

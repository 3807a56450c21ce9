"""One thing that is not as it was in the baseline, and what of a run it fails."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pytest_gradhealth.baseline.entry import DECIMALS
from pytest_gradhealth.results.diagnosis import Limit

#: What has changed: the verdict, the mode it was judged in, the ratio of a path, a step on one, the
#: outputs, a number that is compared within a tolerance, how a parameter is initialised, how often
#: layers are called; layers have lost their gradient, get nothing but zeros, are gone from the
#: model or the path, or new there.
ChangeKind = Literal[
    "verdict",
    "mode",
    "path",
    "step",
    "output",
    "number",
    "initialisation",
    "calls",
    "lost",
    "zero",
    "gone",
    "new",
]


@dataclass(frozen=True)
class Change:
    """One thing that is not as it was: `worse` where that fails a test, `better`, or neither.

    `layer` is the first layer of the path, or where the step is; `before` and `after` are decades.
    """

    kind: ChangeKind
    worse: bool
    layer: str
    message: str
    before: float = math.nan
    after: float = math.nan
    better: bool = False

    @property
    def is_number(self) -> bool:
        """Whether two numbers were compared."""
        return self.kind in ("path", "step", "output")

    @property
    def of_layers(self) -> bool:
        """Whether it is layers that are lost, silent, gone or new."""
        return self.kind in ("lost", "zero", "gone", "new")

    @property
    def fails(self) -> Literal["", "regression", "layers"]:
        """What of --gradhealth-fail-on it fails, "" for nothing.

        Layers that come and go may be meant to: they are "layers", all else is a "regression".
        """
        if not self.worse:
            return ""
        return "layers" if self.kind in ("gone", "new") else "regression"


def moved(before: float, after: float) -> float:
    """The signed change of a ratio in decades: below zero where gradient was lost.

    >>> moved(0.9, -1.5), moved(-1.0, 0.2)
    (-2.4, 1.2)
    """
    if before == after or (math.isnan(before) and math.isnan(after)):
        return 0.0
    change = after - before
    return math.inf if math.isnan(change) else round(change, 6)


def effect(before: float, after: float, limit: float) -> Literal["", "worse", "better"]:
    """What a change of a ratio is.

    Worse if it has moved by more than `limit` decades, and ends farther from level than it was, or
    beyond it by more than the limit; better if it has moved as far towards level. Nothing can be
    said against what follows a silence.

    >>> [effect(*was_and_now, 0.5) for was_and_now in ((0.9, -1.5), (-2.0, 0.4), (0.9, -0.8))]
    ['worse', 'better', 'worse']
    """
    if not abs(moved(before, after)) > limit:
        return ""
    beyond = before * after < 0 and abs(after) > limit
    if before == -math.inf and math.isfinite(after):
        return "" if beyond else "better"
    return "better" if _distance(after) < _distance(before) and not beyond else "worse"


def movement(before: float, after: float, limit: Limit) -> str:
    """How far a ratio has moved and which way, in words, and how far it may where that is worse.

    >>> movement(0.9, -1.5, Limit(0.5, "default")), movement(-3.0, 0.2, Limit(0.5, "default"))
    ('it lost 2.4 decades; limit 0.5, default', 'it grew by 3.2 decades, towards x1')
    """
    by, is_now = moved(before, after), effect(before, after, limit.value)
    if not math.isfinite(after):
        words = "nothing is left" if after == -math.inf else "it is not finite"
    elif not math.isfinite(before):
        words = "there was none" if before == -math.inf else "it was not finite"
    else:
        words = f"it {'lost' if by < 0 else 'grew by'} {round(abs(by), DECIMALS):.6g} decades"
    if is_now == "worse":
        return f"{words}; limit {limit.value:.6g}, {limit.source}"
    return f"{words}, towards x1" if is_now == "better" and math.isfinite(by) else words


def _distance(ratio: float) -> float:
    """How far a ratio is from level, in decades; not a number counts as infinitely far."""
    return math.inf if math.isnan(ratio) else abs(ratio)

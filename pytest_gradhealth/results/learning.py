"""How far a training on one batch has come, and what stood in its way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pytest_gradhealth.results.non_finite import NonFinite

#: What a training on one batch has come to: the loss fell far enough; it still falls, and not far
#: enough yet; it stands still below one answer for all or, where that is unknown, below its start;
#: it stands still, or goes up and down; it ends above its start; it, or a gradient, is not finite
#: any more.
Course = Literal["learned", "falling", "settled", "stuck", "rising", "not finite"]


#: What the loss to get below follows from: a share of the loss at the start, the best answer that
#: is the same for all examples, or how far the losses of single examples lie apart.
HeldAgainst = Literal["start", "constant", "spread"]


@dataclass(frozen=True)
class Reason:
    """What a rule, by its code, finds wrong, and what to try.

    It `fails`, or warns: in the model as it was given, or in the copy after some `steps` alone.
    """

    code: str
    finding: str
    because: str = ""
    advice: str = ""
    fails: bool = False
    steps: int = 0


@dataclass(frozen=True)
class BatchRecord:
    """What there is to say of a batch itself that cannot be learned.

    `contradicting` of its `examples` have the inputs of another one and another target. The root
    mean squares of the features of its inputs lie between `smallest` and `largest`, None where that
    cannot be told.
    """

    examples: int = 0
    contradicting: int = 0
    smallest: float | None = None
    largest: float | None = None


@dataclass(frozen=True)
class Cure:
    """A learning rate that learns the batch: so many `times` that which does not, in `steps`.

    `call` is the optimizer with it as one types it, "" for several groups.
    """

    times: float
    steps: int
    call: str = ""


@dataclass(frozen=True)
class Learning:
    """A training on one batch, on a copy, that was to lower its loss far enough.

    `losses` are those before each step that was made, of `steps` that were asked for, or three
    times as many where the loss was still falling. `goal` is the loss to get below, and
    `held_against` what that follows from; `constant` the least that one answer for all examples can
    have, None where that cannot be told. `change` is how far the steps have moved the weights, over
    their norm; `climbs` says that they are to go up. What follows is known where that was asked,
    since it was not learned: where a number that is not finite came up, the `reason` that another
    rule sees in the copy afterwards, what is wrong with the `batch`, and the multiples of the
    learning rate that were `tried` in turn, up to the `cure`.
    """

    steps: int
    losses: tuple[float, ...]
    course: Course
    goal: float
    held_against: HeldAgainst
    constant: float | None = None
    change: float | None = None
    climbs: bool = False
    non_finite: NonFinite | None = None
    reason: Reason | None = None
    batch: BatchRecord = field(default_factory=BatchRecord)
    tried: tuple[float, ...] = ()
    cure: Cure | None = None

    @property
    def start(self) -> float:
        """The loss as the model was given."""
        return self.losses[0]

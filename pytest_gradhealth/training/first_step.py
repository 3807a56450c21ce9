"""The loss along the first step of the user's optimizer, and how long that may be.

A step is too long where the loss of its own batch, with the same random numbers, is higher behind
it and lower on the way there. From the critical rate on it rises: 2 over the sharpness along the
step, where the loss is a parabola.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.results.first_step import FirstStep
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.subject.loss import has_loss
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.training.gradients import penalty_of
from pytest_gradhealth.training.kind import Kind, carry_of
from pytest_gradhealth.training.loop import train
from pytest_gradhealth.training.typed import rates_of, typed

#: What a step promises to take from the loss, over the loss, from which on it may be too long. On a
#: parabola, one of r times the critical length promises 4 r times what the best one takes; of those
#: of the study that are far too long, next to none promises less (examples/study/RATES.md).
PROMISE = 5.0
#: Share of the loss that is rounding.
ROUNDING = 1e-4
#: Share of the loss that the best step along the way has to take, to be one at all.
LEAST_GAIN = 0.02
#: Halvings of the step after which there is no step short enough: five forwards find which.
HALVINGS = 32


def may_be_too_long(kind: Kind, profile: GradientProfile) -> bool:
    """Whether the first step promises to take more from the loss than there is, to first order."""
    rates = ((kind.rates.get(p.name, 0.0), p) for p in profile.parameters if p.gradient)
    promised = sum(
        rate * p.gradient * (p.gradient if kind.sgd else math.sqrt(math.prod(p.shape)))
        for rate, p in rates
        if p.gradient is not None
    )
    return math.isfinite(profile.loss) and promised > PROMISE * abs(profile.loss)


def first_step(subject: Subject, optimizer: Optimizer, *, seed: int) -> FirstStep | None:
    """Make one training step with `subject`, a copy, and shorter ones if it raises the loss.

    None where it does not, or nothing tells that its length is why. To be called inside `isolated`.
    Raises ProbeError if model, loss or optimizer fail on the way to the first step.
    """
    held = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    start = [parameter.detach().clone() for parameter in held.values()]
    backwards: list[Tensor] = []

    def note(_: nn.Module, loss: Tensor) -> None:
        backwards.append(loss)

    loss = next(train(subject, optimizer, seed=seed, steps=1, before_clip=note))
    line = _Line(subject, tuple(held.values()), start, seed + 1)
    made = line.here()
    if made is None or len(backwards) > 1 or not _rises(made.data, float(loss)):
        return None
    return _shortened(line, float(loss), made.total, optimizer)


def _shortened(line: _Line, data: float, after: float, optimizer: Optimizer) -> FirstStep | None:
    """What steps in the same direction do, that are shorter by powers of two."""
    unmoved = line.turn_back()
    if unmoved is None or abs(unmoved.data - data) > ROUNDING * abs(data):
        return None
    before = unmoved.total
    if not _rises(after, before):
        return None

    def rises(halvings: int) -> bool:
        return _rises(line.loss(0.5**halvings), before)

    low, high = 0, HALVINGS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if rises(middle) else (low, middle)
    if high == HALVINGS:
        return None
    share = 0.5**high
    half, whole = (line.loss(share / n) - before for n in (2, 1))
    gain, critical = _parabola(half, whole)
    if not gain > LEAST_GAIN * abs(before):
        return None
    critical = max(share * critical, _as_in_a_bowl((after - before) / gain))
    rates = rates_of(optimizer)
    return FirstStep(before, after, gain, critical, rates, carry_of(optimizer), typed(optimizer))


def _rises(after: float, before: float) -> bool:
    return not after <= before + ROUNDING * abs(before)


def _parabola(half: float, whole: float) -> tuple[float, float]:
    """The largest fall on the way, and where the loss is as high again, by two changes of it.

    Those at the ends of one step and of half of it, which is the unit; the next step but one is
    known to raise it.
    """
    slope, bend = 4 * half - whole, 2 * whole - 4 * half
    fall = max(-half, -whole)
    if slope < 0 < bend:
        return max(fall, slope**2 / (4 * bend)), min(max(-slope / bend, 1.0), 2.0)
    return fall, 2.0


def _as_in_a_bowl(cost: float) -> float:
    """The critical share of a step that costs so many times what the best one gains.

    As it is of a parabola, where it costs 4 r (r - 1) for r times the critical length. On a rough
    loss, as behind many batch norms, it rises and falls again for steps that do no harm.
    """
    return 2 / (1 + math.sqrt(1 + cost)) if math.isfinite(cost) else 0.0


@dataclass(frozen=True)
class _Losses:
    """The loss of the data, and that with the penalty."""

    data: float
    total: float


@dataclass
class _Line:
    """The model of a subject, moved along a step that has been made."""

    subject: Subject
    parameters: Sequence[Tensor]
    start: list[Tensor]
    seed: int
    end: list[Tensor] = field(default_factory=list)
    known: dict[float, float] = field(default_factory=dict)

    def here(self) -> _Losses | None:
        """The losses where the model is; None if it has none but a direction in its place."""
        run = Pass(self.subject, self.seed)
        try:
            data = run.run()
            if not has_loss(run.outputs, self.subject.loss):
                return None
            penalty = self.subject.step.regularizer
            total = data if penalty is None else data + penalty_of(self.subject.model, penalty)
        except ProbeError:  # a model, or a loss, that refuses such weights
            return _Losses(math.inf, math.inf)
        return _Losses(float(data), float(total))

    def turn_back(self) -> _Losses | None:
        """The losses at the start, None if the step leads nowhere."""
        self.end = [parameter.detach().clone() for parameter in self.parameters]
        if not all(bool(end.isfinite().all()) for end in self.end):
            return None
        return self._at(0.0)

    def loss(self, share: float) -> float:
        """The loss at a share of the step."""
        if share not in self.known:
            losses = self._at(share)
            self.known[share] = math.inf if losses is None else losses.total
        return self.known[share]

    @torch.no_grad()
    def _move(self, share: float) -> None:
        for parameter, start, end in zip(self.parameters, self.start, self.end, strict=True):
            parameter.copy_(start + share * (end - start))

    def _at(self, share: float) -> _Losses | None:
        self._move(share)
        return self.here()

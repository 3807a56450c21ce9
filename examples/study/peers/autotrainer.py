"""AutoTrainer's formulas (Zhang et al., ICSE 2021)."""

from __future__ import annotations

import math

from examples.study.peers.observation import Observation
from examples.study.peers.peer import Peer, PeerRule, any_nonfinite, kernels_of, quotient, reached


def _first_and_last(observation: Observation) -> tuple[float, float]:
    """Norms of the first and the last kernel's gradient; nan where the formula is not reached."""
    kernels = kernels_of(observation)
    if not kernels or any_nonfinite(reached(observation)):
        return math.nan, math.nan
    return kernels[0].gradient_norm, kernels[-1].gradient_norm


def vanishing(observation: Observation) -> bool:
    """AutoTrainer, vanishing gradient: first over last kernel < 1e-3 and the first < 1e-4.

    Zhang et al., ICSE 2021; `AutoTrainer/utils/monitor.py`. L2 norms of the gradients of weight
    matrices. Left out, here and in its other rules: it speaks only where the accuracy of a
    training stays under 0.6 or grows by less than 0.01.
    """
    first, last = _first_and_last(observation)
    return quotient(first, last) < 1e-3 and first < 1e-4


def exploding(observation: Observation) -> bool:
    """AutoTrainer, exploding gradient: first over last kernel > 70; see its vanishing."""
    return quotient(*_first_and_last(observation)) > 70


def nonfinite(observation: Observation) -> bool:
    """AutoTrainer, exploding gradient: nan or inf in a gradient, a weight or the loss."""
    return (
        not math.isfinite(observation.loss)
        or any_nonfinite(reached(observation))
        or any(not p.weight_finite for p in observation.parameters)
    )


def large_loss(observation: Observation) -> bool:
    """AutoTrainer, exploding gradient: a loss of 1e3 or more (1e5 in the first release)."""
    return observation.loss >= 1e3


def dying(observation: Observation) -> bool:
    """AutoTrainer, dying ReLU: at least 0.7 of all elements of gradients are exactly zero."""
    seen = reached(observation)
    sizes = [math.prod(p.shape) for p in seen]
    zeros = sum(p.zero_share * size for p, size in zip(seen, sizes, strict=True))
    if not seen or any_nonfinite(seen):
        return False
    # shares are rounded quotients of whole numbers
    return round(zeros) >= 0.7 * sum(sizes)


AUTOTRAINER = Peer(
    "AutoTrainer",
    "5175f6c",
    "shiningrain/AUTOTRAINER, AutoTrainer/utils/monitor.py",
    (
        PeerRule("vanishing gradient", vanishing),
        PeerRule("exploding gradient", exploding),
        PeerRule("nan", nonfinite),
        PeerRule("large loss", large_loss, "loss"),
        PeerRule("dying ReLU", dying),
    ),
)

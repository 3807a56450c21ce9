"""traintools' formulas."""

from __future__ import annotations

import math

from examples.study.peers.observation import Observation
from examples.study.peers.peer import LEARNING_RATE, Peer, PeerRule, any_nonfinite, reached


def nonfinite(observation: Observation) -> bool:
    """traintools, non-finite gradients: nan or inf in a gradient.

    `traintools/gradhealth.py`; its norms, in all rules, are those of the finite elements.
    """
    return any_nonfinite(reached(observation))


def vanished(observation: Observation) -> bool:
    """traintools, gradient appears vanished: norm <= 1e-12 of any parameter's gradient."""
    return any(p.finite_norm <= 1e-12 for p in reached(observation))


def large(observation: Observation) -> bool:
    """traintools, gradient is very large: norm >= 1e3, or no element finite."""
    return any(p.finite_norm >= 1e3 for p in reached(observation))


def update(observation: Observation) -> bool:
    """traintools, update/weight ratio is high: lr norm(g) / norm(w) >= 1e-1.

    With `LEARNING_RATE`; without weights of norm zero.
    """
    return any(
        LEARNING_RATE * p.finite_norm / (p.norm + 1e-12) >= 1e-1
        for p in reached(observation)
        if p.norm > 0 and math.isfinite(p.finite_norm)
    )


def tiny_update(observation: Observation) -> bool:
    """traintools, global update/weight ratio is tiny: lr norm(all g) / norm(all w) <= 1e-8."""
    seen = reached(observation)
    gradient = math.hypot(*(p.finite_norm for p in seen))
    weight = math.hypot(*(p.norm for p in observation.parameters))
    if not seen or not weight > 0 or not math.isfinite(gradient):
        return False
    return LEARNING_RATE * gradient / (weight + 1e-12) <= 1e-8


def none(observation: Observation) -> bool:
    """traintools, no gradients found: every gradient is None."""
    return not reached(observation)


TRAINTOOLS = Peer(
    "traintools",
    "0.6.2",
    "traintools/gradhealth.py",
    (
        PeerRule("non-finite gradients", nonfinite),
        PeerRule("vanished gradient", vanished),
        PeerRule("very large gradient", large),
        PeerRule("high update ratio", update, "updates"),
        PeerRule("tiny global update ratio", tiny_update, "updates"),
        PeerRule("no gradients", none),
    ),
)

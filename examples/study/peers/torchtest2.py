"""torchtest2's formulas."""

from __future__ import annotations

from examples.study.peers.observation import Observation
from examples.study.peers.peer import Peer, PeerRule, any_nonfinite, reached


def no_gradient(observation: Observation) -> bool:
    """torchtest2, gradient_flow, FAIL: a trainable parameter's gradient is None.

    `torchtest2/checks.py`. Left out: parameters that get one under three other seeds.
    """
    return any(p.trainable and p.grad_none for p in observation.parameters)


def zero_gradient(observation: Observation) -> bool:
    """torchtest2, gradient_flow, WARN: a gradient is zero everywhere, after a step of Adam too."""
    return not no_gradient(observation) and any(
        p.trainable and p.stays_zero for p in observation.parameters
    )


def nonfinite(observation: Observation) -> bool:
    """torchtest2, gradient_magnitude, FAIL: nan or inf in a gradient."""
    return any_nonfinite(reached(observation))


def exploding(observation: Observation) -> bool:
    """torchtest2, gradient_magnitude, WARN: norm of g over norm of w (or 1, if less) > 1e3."""
    seen = reached(observation)
    return not any_nonfinite(seen) and any(p.gradient_norm / max(p.norm, 1.0) > 1e3 for p in seen)


TORCHTEST2 = Peer(
    "torchtest2",
    "0.1.0",
    "torchtest2/checks.py",
    (
        PeerRule("gradient_flow FAIL", no_gradient),
        PeerRule("gradient_flow WARN", zero_gradient, level="warning"),
        PeerRule("gradient_magnitude FAIL", nonfinite),
        PeerRule("gradient_magnitude WARN", exploding, level="warning"),
    ),
)

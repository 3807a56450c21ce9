"""pytest-torch's formulas."""

from __future__ import annotations

import math

from examples.study.peers.observation import Observation
from examples.study.peers.peer import Peer, PeerRule, any_nonfinite, reached


def nonfinite(observation: Observation) -> bool:
    """pytest-torch, assert_gradients_finite: nan or inf in the loss or a gradient.

    `pytest_torch/training.py`. Left out of the tool: tests that take steps, and gradcheck.
    """
    return not math.isfinite(observation.loss) or any_nonfinite(reached(observation))


def unreached(observation: Observation) -> bool:
    """pytest-torch, assert_all_params_receive_grad: a gradient is None or zero everywhere."""
    return any(p.trainable and (p.grad_none or p.zero_share == 1) for p in observation.parameters)


PYTEST_TORCH = Peer(
    "pytest-torch",
    "1.1.1",
    "pytest_torch/training.py",
    (
        PeerRule("assert_gradients_finite", nonfinite),
        PeerRule("assert_all_params_receive_grad", unreached),
    ),
)

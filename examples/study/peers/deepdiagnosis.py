"""DeepDiagnosis's formulas (Wardat et al., ICSE 2022)."""

from __future__ import annotations

from examples.study.peers.observation import Observation, ParameterSeen
from examples.study.peers.peer import Peer, PeerRule, invalid_loss, kernels_of


def _dense_kernels(observation: Observation) -> list[ParameterSeen]:
    return [p for p in kernels_of(observation) if p.kind.endswith("Linear")]


def vanishing(observation: Observation) -> bool:
    """DeepDiagnosis, vanishing gradient: mean |g| < 1e-7 in a dense layer's kernel.

    Wardat et al., ICSE 2022; `callback/callbacks.py`. Left out of the tool: whatever compares
    epochs (unchanged tensors, loss, accuracy), and the range of the outputs against the targets.
    Its thresholds on variance and learning rate choose a remedy and find nothing.
    """
    return any(p.mean_abs < 1e-7 for p in _dense_kernels(observation))


def numerical_gradient(observation: Observation) -> bool:
    """DeepDiagnosis, numerical error in delta weights: mean g is nan, inf or zero (dense layers).

    Means that are zero because elements cancel do not count, which is kinder than the tool.
    """
    return any(not p.finite or p.zero_share == 1 for p in _dense_kernels(observation))


def numerical_forward(observation: Observation) -> bool:
    """DeepDiagnosis, numerical problem forward: a layer's mean output is nan, inf or zero.

    Means that are zero because elements cancel do not count.
    """
    return any(not layer.finite or layer.rms == 0 for layer in observation.layers)


def numerical_weights(observation: Observation) -> bool:
    """DeepDiagnosis, numerical error in weights: a kernel's mean is nan, inf or zero.

    Means that are zero because elements cancel do not count.
    """
    return any(
        p.is_kernel and (not p.weight_finite or p.weight_max == 0) for p in observation.parameters
    )


def dead(observation: Observation) -> bool:
    """DeepDiagnosis, dead node: at least 0.7 of what a ReLU returns is <= 0.

    Judged by the tool after the last epoch only.
    """
    return any(
        layer.kind == "ReLU" and layer.nonpositive_share >= 0.7 for layer in observation.layers
    )


def saturated(observation: Observation) -> bool:
    """DeepDiagnosis, saturated activation: |x| >= 5 in more than half of a sigmoid's or tanh's
    input. Judged by the tool every fifth epoch.
    """
    return any(layer.large_input_share > 0.5 for layer in observation.layers)


DEEPDIAGNOSIS = Peer(
    "DeepDiagnosis",
    "500b017",
    "DeepDiagnosis/ICSE2022, callback/callbacks.py",
    (
        PeerRule("vanishing gradient", vanishing),
        PeerRule("numerical error in delta weights", numerical_gradient),
        PeerRule("numerical problem forward", numerical_forward, "activations"),
        PeerRule("numerical error in weights", numerical_weights, "weights"),
        PeerRule("dead node", dead, "activations"),
        PeerRule("saturated activation", saturated, "activations"),
        PeerRule("invalid loss", invalid_loss, "loss"),
    ),
)

"""The formulas of SageMaker Debugger's built-in rules."""

from __future__ import annotations

import math

from examples.study.peers.observation import Observation
from examples.study.peers.peer import LEARNING_RATE, Peer, PeerRule, kernels_of, quotient, reached


def vanishing(observation: Observation) -> bool:
    """SageMaker Debugger, VanishingGradient: mean |g| < 1e-7 of any gradient.

    AWS SageMaker developer guide, `debugger-built-in-rules.md`, with all its defaults. Left out
    of its rules: those that follow the loss, or one tensor over steps.
    """
    return any(p.mean_abs < 1e-7 for p in reached(observation))


def exploding(observation: Observation) -> bool:
    """SageMaker Debugger, ExplodingTensor: nan or inf in any tensor."""
    return (
        not math.isfinite(observation.loss)
        or any(not (p.finite and p.weight_finite) for p in observation.parameters)
        or any(not layer.finite for layer in observation.layers)
    )


def dead(observation: Observation) -> bool:
    """SageMaker Debugger, DeadRelu: over 50 % of a layer's ReLUs active in under 1 % of inputs."""
    return any(layer.idle_share > 0.5 for layer in observation.layers)


def saturated(observation: Observation) -> bool:
    """SageMaker Debugger, SaturatedActivation: over 50 % of a layer's nodes have inputs inside
    the limits (tanh -9.4999..9.4999, sigmoid -23..16.99999) less than 1 % of the time.
    """
    return any(layer.flat_share > 0.5 for layer in observation.layers)


def poor_weights(observation: Observation) -> bool:
    """SageMaker Debugger, PoorWeightInitialization: variances of layers' weights differ > 10x.

    "The ratio between minimum and maximum variance of weights per layer"; of weight matrices.
    """
    variances = [p.weight_variance for p in observation.parameters if p.is_kernel]
    return bool(variances) and quotient(max(variances), min(variances)) > 10


def narrow_gradients(observation: Observation) -> bool:
    """SageMaker Debugger, PoorWeightInitialization: the least distance from 5th to 95th
    percentile of a gradient < 0.001.

    Of weight matrices. Left out: a loss that stops to fall within 10 steps.
    """
    return any(p.spread < 0.001 for p in kernels_of(observation))


def update(observation: Observation) -> bool:
    """SageMaker Debugger, WeightUpdateRatio: update over (weight + 1e-9) > 10 or < 1e-8.

    Of tensors called weight, mean absolute values; the update is SGD's with `LEARNING_RATE`.
    """
    ratios = [
        LEARNING_RATE * p.mean_abs / (p.weight_mean_abs + 1e-9)
        for p in reached(observation)
        if "weight" in p.name
    ]
    return any(ratio > 10 or ratio < 1e-8 for ratio in ratios)


SAGEMAKER = Peer(
    "SageMaker Debugger",
    "1c4d5ff",
    "awsdocs/amazon-sagemaker-developer-guide, doc_source/debugger-built-in-rules.md",
    (
        PeerRule("VanishingGradient", vanishing),
        PeerRule("ExplodingTensor", exploding),
        PeerRule("DeadRelu", dead, "activations"),
        PeerRule("SaturatedActivation", saturated, "activations"),
        PeerRule("PoorWeightInitialization, weights", poor_weights, "weights"),
        PeerRule("PoorWeightInitialization, gradients", narrow_gradients),
        PeerRule("WeightUpdateRatio", update, "updates"),
    ),
)

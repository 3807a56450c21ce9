"""TheDeepChecker's formulas (Ben Braiek and Khomh, TOSEM 2023), also read across layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from examples.study.peers.numbers import ACTIVATIONS
from examples.study.peers.observation import LayerSeen, Observation
from examples.study.peers.peer import (
    LEARNING_RATE,
    Peer,
    PeerRule,
    any_nonfinite,
    invalid_loss,
    kernels_of,
    quotient,
)


def numerical(observation: Observation) -> bool:
    """TheDeepChecker, numerical instability: nan or inf in the gradient of a weight.

    Ben Braiek and Khomh, TOSEM 2023; `deep_checker/hooks.py`. Left out of the tool: what it
    trains for (fitting one batch, curves of the loss, augmentation, modes), the distribution and
    loss of its pre-checks, and rates from step to step, see `vanishing`.
    """
    return any_nonfinite(kernels_of(observation))


def vanishing(observation: Observation) -> bool:
    """TheDeepChecker, vanishing gradient: mean |g| of a weight < 1e-6.

    Left out: or, in successive steps of a training, at most half of the step before.
    """
    return any(p.mean_abs < 1e-6 for p in kernels_of(observation))


def exploding(observation: Observation) -> bool:
    """TheDeepChecker, exploding gradient: mean |g| of a weight > 1e6.

    Left out: or, in successive steps of a training, at least twice that of the step before.
    """
    return any(p.mean_abs > 1e6 and p.finite for p in kernels_of(observation))


def _hidden(observation: Observation) -> list[LayerSeen]:
    found = [x for x in observation.layers if x.kind in ACTIVATIONS - {"Softmax", "LogSoftmax"}]
    return [layer for layer in found if layer.finite]


def activations_nonfinite(observation: Observation) -> bool:
    """TheDeepChecker, numerical instability: nan or inf in what an activation returns."""
    return any(layer.kind in ACTIVATIONS and not layer.finite for layer in observation.layers)


def dead(observation: Observation) -> bool:
    """TheDeepChecker, dead layer: in more than half of the neurons p95 of |x| < 1e-5.

    Of activations other than sigmoid and tanh. The tool looks at ten batches, after some steps.
    """
    return any(
        layer.dim_share > 0.5 for layer in _hidden(observation) if math.isnan(layer.rho_share)
    )


def saturated(observation: Observation) -> bool:
    """TheDeepChecker, saturated layer: rho_B > 0.85 in more than half of a layer's neurons.

    Of sigmoid and tanh, over 50 bins of their own range.
    """
    return any(layer.rho_share > 0.5 for layer in _hidden(observation))


def unstable(observation: Observation) -> bool:
    """TheDeepChecker, unstable activations: std outside 0.5..2.0 by an F-test at alpha 0.1.

    The critical quotient of the variances is 2.70554, whatever the number of elements.
    """

    def rejected(std: float) -> bool:
        return quotient(0.5**2, std**2) > 2.70554 or std**2 / 2.0**2 > 2.70554

    return any(rejected(layer.std) for layer in _hidden(observation))


def update(observation: Observation) -> bool:
    """TheDeepChecker, unstable learning: log10 of mean |update| over mean |w| outside -4..-1.

    The mean over several steps in the tool; here the first, of SGD with `LEARNING_RATE`.
    """
    ratios = [
        LEARNING_RATE * p.mean_abs / p.weight_mean_abs
        for p in kernels_of(observation)
        if p.weight_mean_abs > 0
    ]
    return any(ratio > 1e-1 or ratio < 1e-4 for ratio in ratios)


def _runs(observation: Observation, holds: Callable[[float], bool], length: int = 5) -> bool:
    """Whether `length` kernels in a row have a mean |g| that, over that of the next, `holds`."""
    sizes = [p.mean_abs for p in kernels_of(observation)]
    run = 0
    for size, following in pairwise(sizes):
        run = run + 1 if holds(quotient(size, following)) else 0
        if run == length:
            return True
    return False


def layers_vanishing(observation: Observation) -> bool:
    """TheDeepChecker's rate of vanishing, read across layers: five ratios in a row <= 0.5.

    The tool compares steps of a training (`vanishing`); this is the kindest use of the numbers 5
    and 0.5 for one step: each kernel's mean |g| over that of the next one.
    """
    return _runs(observation, lambda ratio: ratio <= 0.5)


def layers_exploding(observation: Observation) -> bool:
    """TheDeepChecker's rate of exploding, read across layers: five ratios in a row >= 2."""
    return _runs(observation, lambda ratio: ratio >= 2)


DEEPCHECKER = Peer(
    "TheDeepChecker",
    "d6a7e72",
    "thedeepchecker/thedeepchecker, deep_checker/hooks.py and config/settings.yaml",
    (
        PeerRule("numerical instability", numerical),
        PeerRule("vanishing gradient", vanishing),
        PeerRule("exploding gradient", exploding),
        PeerRule(
            "numerical instability of activations",
            activations_nonfinite,
            "activations",
        ),
        PeerRule("dead layer", dead, "activations"),
        PeerRule("saturated layer", saturated, "activations"),
        PeerRule("unstable activations", unstable, "activations"),
        PeerRule("unstable learning", update, "updates"),
        PeerRule("invalid loss", invalid_loss, "loss"),
    ),
)

DEEPCHECKER_ACROSS_LAYERS = Peer(
    "TheDeepChecker, across layers",
    "d6a7e72",
    "its rates of change from step to step, read from layer to layer",
    (
        PeerRule("vanishing gradient", layers_vanishing),
        PeerRule("exploding gradient", layers_exploding),
    ),
)

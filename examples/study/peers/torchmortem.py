"""torchmortem's formulas."""

from __future__ import annotations

from collections.abc import Iterable

from examples.study.peers.numbers import ACTIVATIONS
from examples.study.peers.observation import LayerSeen, Observation
from examples.study.peers.peer import Peer, PeerRule


def _output_gradients(observation: Observation) -> list[float]:
    """Norms of the gradients of layers' outputs, in the order of registration.

    Its hook of a layer that is called more than once keeps the last gradient to arrive, the one
    of the first call; what no gradient arrives at counts as zero.
    """
    norms: dict[str, float] = {}
    for layer in reversed(observation.layers):
        if layer.gradient_norm is not None:
            norms[layer.name] = layer.gradient_norm
    return [norms.get(name, 0.0) for name in observation.registered]


def vanishing(observation: Observation) -> bool:
    """torchmortem, vanishing gradients: last over first layer's output gradient >= 100.

    `torchmortem/detectors/gradient_flow.py`. Layers are modules without children that have
    trainable parameters, in the order of registration. A ratio of nan counts, as in the tool.
    Left out, here and in its other rules: means over the second half of a training.
    """
    norms = _output_gradients(observation)
    if len(norms) < 2:
        return False
    if norms[0] < 1e-30:
        return True
    return not norms[-1] < 1e-30 and not norms[-1] / norms[0] < 100


def exploding(observation: Observation) -> bool:
    """torchmortem, exploding gradients: the norm of an output's gradient > 1000."""
    norms = _output_gradients(observation)
    return len(norms) >= 2 and any(norm > 1000 for norm in norms)


def stalling(observation: Observation) -> bool:
    """torchmortem, gradient stalling: the norm of an output's gradient < 1e-8.

    In 30 % of the steps of a training; here in the one there is.
    """
    norms = _output_gradients(observation)
    return len(norms) >= 2 and any(norm < 1e-8 for norm in norms)


#: Activations without parameters that torchmortem watches; it knows no others.
_WATCHED = ACTIVATIONS - {"CELU", "Hardtanh", "ReLU6", "Softplus", "Softsign"}


def _watched(observation: Observation) -> Iterable[LayerSeen]:
    last_calls = {layer.name: layer for layer in observation.layers}
    return (x for x in last_calls.values() if x.parameterised or x.kind in _WATCHED)


def dead(observation: Observation) -> bool:
    """torchmortem, dead units: |x| < 1e-6 in more than half of what a layer returns."""
    return any(layer.near_zero_share > 0.5 for layer in _watched(observation))


def saturated(observation: Observation) -> bool:
    """torchmortem, saturation: |x| > 0.95 in more than half of what a layer returns, of any kind.

    Left out of the tool: update ratios, which it judges from the second step on, noise, rank.
    """
    return any(layer.high_share > 0.5 for layer in _watched(observation))


TORCHMORTEM = Peer(
    "torchmortem",
    "0.1.1",
    "torchmortem/detectors/",
    (
        PeerRule("vanishing gradients", vanishing),
        PeerRule("exploding gradients", exploding),
        PeerRule("gradient stalling", stalling),
        PeerRule("dead units", dead, "activations"),
        PeerRule("saturation", saturated, "activations"),
    ),
)

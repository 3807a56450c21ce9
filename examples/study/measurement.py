"""What one network measures: the linter's verdicts and every statistic the study compares."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_map

from examples.study.network import Network
from examples.study.peers import PEERS
from examples.study.peers.observation import observe
from pytest_gradhealth import Diagnosis, GradientPath, GradientProfile, ProbeError, probe
from pytest_gradhealth.config.options import DEFAULTS
from pytest_gradhealth.results.diagnosis import worst_path

#: What the loss is multiplied by; no verdict of ours may depend on it.
SCALES = (1.0, 1e-4, 1e4)


@dataclass(frozen=True)
class Statistic:
    """A number that could decide: in decades, the larger the worse."""

    name: str
    what: str
    of: Callable[[GradientProfile], float]


def _worst(profile: GradientProfile, of: Callable[[GradientPath], float]) -> float:
    return max((of(path) for path in profile.judged_paths if path.links), default=0.0)


def _weights(profile: GradientProfile) -> list[tuple[float, float]]:
    """Norm and gradient norm of the weights, in the order of the model."""
    return [
        (p.norm, p.gradient)
        for p in profile.parameters
        if len(p.shape) > 1 and p.gradient is not None
    ]


def _log(value: float) -> float:
    return math.log10(value) if value > 0 else -math.inf


def _span(values: Iterable[float]) -> float:
    """Decades between the smallest and the largest; infinite with a zero or an infinity."""
    logs = [_log(value) if math.isfinite(value) else math.inf for value in values]
    if not logs:
        return 0.0
    return max(logs) - min(logs) if all(map(math.isfinite, logs)) else math.inf


def _envelope(path: GradientPath) -> float:
    return _span(point.norm for point in path.points)


def _rate(path: GradientPath) -> float:
    return abs(path.l2) / path.links


def _coefficient(path: GradientPath) -> float:
    sizes = [p.norm * p.activation / math.sqrt(p.numel) for p in (path.first, path.last)]
    return _span(sizes)


def _weight_gradients(profile: GradientProfile) -> float:
    gradients = [gradient for _, gradient in _weights(profile)]
    return _span((gradients[0], gradients[-1])) if gradients else 0.0


def _relative_updates(profile: GradientProfile) -> float:
    return _span(gradient / norm for norm, gradient in _weights(profile) if norm)


STATISTICS = (
    Statistic(
        "path ratio",
        "gradient of the first layer's output over the last's, along the path: max(-V, X)",
        lambda p: _worst(p, lambda path: max(-path.vanishing, path.exploding)),
    ),
    Statistic(
        "envelope",
        "largest over smallest gradient norm on the path",
        lambda p: _worst(p, _envelope),
    ),
    Statistic("rate per layer", "geometric mean of the path's steps", lambda p: _worst(p, _rate)),
    Statistic(
        "weight-gradient ratio", "gradient of the first weight over the last's", _weight_gradients
    ),
    Statistic(
        "relative update",
        "largest over smallest gradient-to-weight ratio of all weights",
        _relative_updates,
    ),
    Statistic(
        "gradient scale coefficient",
        "the path ratio times the ratio of the activations' RMS (Philipp et al. 2017)",
        lambda p: _worst(p, _coefficient),
    ),
)


def measure(network: Network, seed: int, *, peers: bool = True) -> dict[str, Any]:
    """Build a network under a seed and let the linter and its peers judge it.

    With `peers`, they and every loss scale are tried as well. Plain numbers, strings and lists, for
    a journal. What could not be probed says why under "error".
    """
    record: dict[str, Any] = {"name": network.name, "family": network.family, "seed": seed}
    torch.manual_seed(seed)
    model = network.build()
    inputs, targets = network.batch()
    scales = SCALES if peers else SCALES[:1]
    try:
        diagnoses = [
            probe(model, inputs, targets, loss=_scaled(network.loss, scale)) for scale in scales
        ]
    except ProbeError as error:
        return {**record, "error": str(error)}
    record |= _statistics(diagnoses[0])
    record["limits"] = {n: limit.value for n, limit in diagnoses[0].limits.items() if n in DEFAULTS}
    record["verdicts"] = [diagnosis.verdict for diagnosis in diagnoses]
    record["findings"] = [
        [f.code, f.severity, f.layer, f.value] for f in diagnoses[0].findings if f.complains
    ]
    if peers:
        inputs, targets = tree_map(_contiguous, (inputs, targets))
        loss = None if network.loss is None else partial(_times, network.loss, 1.0)
        try:
            seen = [observe(model, inputs, targets, loss, scale=scale) for scale in scales]
        except RuntimeError:  # hooks as other tools have them are nothing for gradients in batches
            return record
        record["peers"] = {
            peer.name: {
                "gradients": [bool(peer.judge(o, "gradients", "loss")) for o in seen],
                "all": [bool(peer.judge(o)) for o in seen],
            }
            for peer in PEERS
        }
    return record


def verdict_with_sgd(network: Network, seed: int) -> str:
    """The verdict where SGD is declared, whose limits are stricter.

    The rate is one of several that are tried; whether it is too large is asked in `rates`.
    """
    torch.manual_seed(seed)
    model, batch = network.build(), network.batch()
    sgd = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
    return probe(model, *batch, loss=network.loss, optimizer=sgd, ignore=["GH603"]).verdict


def _contiguous(item: Any) -> Any:
    return item.contiguous() if isinstance(item, torch.Tensor) else item


def _scaled(
    loss: Callable[[Any, Any], Any] | None, scale: float
) -> Callable[[Any, Any], Any] | None:
    if scale == 1.0:
        return loss
    return partial(_times, loss, scale)


def _times(loss: Callable[..., Any] | None, scale: float, outputs: Any, targets: Any = None) -> Any:
    if loss is not None:
        return scale * (loss(outputs) if targets is None else loss(outputs, targets))
    return scale * (outputs["loss"] if isinstance(outputs, Mapping) else outputs.loss)


def _statistics(diagnosis: Diagnosis) -> dict[str, Any]:
    profile = diagnosis.profiles[0]
    path = worst_path(profile, ())
    weights = [p for p in profile.parameters if len(p.shape) > 1 and p.gradient is not None]
    first = weights[0] if weights else None
    return {
        "milliseconds": diagnosis.milliseconds,
        "loss": profile.loss,
        "statistics": {s.name: s.of(profile) for s in STATISTICS},
        "vanishing": None if path is None else path.vanishing,
        "exploding": None if path is None else path.exploding,
        "points": 0 if path is None else len(path.points),
        "output": None if path is None else path.last.activation / math.sqrt(path.last.numel),
        "spread": profile.spread,
        "dead": max((a.dead for a in profile.activations if a.dead is not None), default=None),
        "flat": max((a.flat for a in profile.activations if a.flat is not None), default=None),
        "first weight": first and (first.gradient or 0.0) / math.sqrt(math.prod(first.shape)),
    }

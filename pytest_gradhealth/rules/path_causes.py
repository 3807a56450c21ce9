"""Why a gradient shrinks or grows along a path, in words, where the measurements tell."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_gradhealth.formatting import count, factor, number
from pytest_gradhealth.results.activation_functions import FUNCTIONAL, RECTIFIERS, SATURATING
from pytest_gradhealth.results.diagnosis import Finding
from pytest_gradhealth.results.path import FAINT, GradientPath, PathPoint
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules.beside import beside_the_path
from pytest_gradhealth.rules.rule import Cause
from pytest_gradhealth.rules.stops import cause_of_silence

#: Operations that multiply what layers return.
_PRODUCTS = frozenset({"Mul", "Bmm", "Mm", "Dot", "Prod"})


def path_cause(finding: Finding, profile: GradientProfile, *, down: bool) -> Cause | None:
    """Why the gradient vanishes (`down`) or explodes on the path of a finding."""
    if finding.path is None or finding.severity == "info":
        return None
    path = profile.paths[finding.path]
    if path.silent_at is not None:
        return _zero(path, path.silent_at, profile)
    return (
        beside_the_path(path, profile, down=down)
        or _one_place(path, profile, down)
        or _by_kind(path, profile, down)
    )


@dataclass(frozen=True)
class _Share:
    """Decades that layers of one kind gain together (negative: lose), over how many steps."""

    kind: str
    decades: float
    steps: int

    @property
    def each(self) -> str:
        return factor(self.decades / self.steps)


def _one_place(path: GradientPath, profile: GradientProfile, down: bool) -> Cause | None:
    """Most of it is lost or gained between two points; on a short path that tells of products."""
    index = path.largest_step(down=down)
    total = path.vanishing if down else path.exploding
    if index is None or abs(path.steps[index]) < 0.5 * abs(total):
        return None
    near, far = path.points[index + 1], path.points[index]
    step, way = factor(path.steps[index]), f"from {near.label} to {far.label}"
    if path.links >= 4:
        verb = "lost" if down else "gained"
        return Cause(
            f"most of it is {verb} in one place: {step} {way}", _place_advice(near, profile)
        )
    if not down or _PRODUCTS.isdisjoint(far.ops):
        return None
    return Cause(  # each factor's gradient is made of the others
        f"small factors are multiplied: {step} of it comes back {way}",
        "larger initial values, or an optimizer whose steps do not shrink with the gradient (Adam,"
        " Adagrad)",
    )


def _place_advice(point: PathPoint, profile: GradientProfile) -> str:
    """What to look at where most of the gradient is lost; only some layers have weights."""
    inside = f"{point.name}."
    if any(p.module == point.name or p.name.startswith(inside) for p in profile.parameters):
        what = f"{_passed(point)} in {point.label}"
        return f"look at {what}: its weights, and what multiplies its output"
    return f"look at what {point.label} ({_passed(point)}) is multiplied by on the way on"


def _by_kind(path: GradientPath, profile: GradientProfile, down: bool) -> Cause:
    shares = sorted(_shares(path), key=lambda share: share.decades if down else -share.decades)
    total = sum(s.decades for s in shares if (s.decades < 0) == down)
    flat = [share for share in shares if share.kind in SATURATING]
    if down and flat and sum(share.decades for share in flat) <= 0.4 * total:
        worst = flat[0]
        return Cause(
            f"{count(worst.steps, worst.kind)} let {worst.each} through each (slope at most"
            f" {SATURATING[worst.kind]})",
            'nn.ReLU() with nn.init.kaiming_normal_(layer.weight, nonlinearity="relu"),'
            " or a normalisation layer before each activation",
        )
    variance = _mean_variance(path, profile)
    needed = 2.0 if _activations(path) & RECTIFIERS else 1.0
    if variance is not None and ((variance < 0.9 * needed) if down else (variance > 1.2 * needed)):
        size = "small" if down else "large"
        layers = next(
            (s for s in shares if s.kind in ("Linear", "Conv1d", "Conv2d", "Conv3d")), None
        )
        each = f"{count(layers.steps, layers.kind)} pass on {layers.each} each: " if layers else ""
        return Cause(
            f"{each}the initial weights are {size} (variance x fan-in is {number(variance)},"
            f" level is {number(needed)})",
            _initialisation(path),
        )
    if not down and any("BatchNorm" in point.leaf for point in path.points):
        return Cause(
            f"it grows {factor(math.log10(path.rate))} per step through batch normalisation, which"
            " amplifies gradients in deep nets without skip connections",
            "residual connections: x + block(x)",
        )
    verb = "shrinks" if down else "grows"
    return Cause(
        f"it {verb} {factor(math.log10(path.rate))} per step over {count(path.links, 'step')}",
        "a normalisation layer or a residual connection x + block(x) every few layers",
    )


def _shares(path: GradientPath) -> Iterator[_Share]:
    decades: Counter[str] = Counter()
    steps: Counter[str] = Counter()
    for step, far, near in zip(path.steps, path.points, path.points[1:], strict=False):
        kind = _kind(far, near)
        decades[kind] += step  # type: ignore[assignment]
        steps[kind] += 1
    return (_Share(kind, decades[kind], steps[kind]) for kind in steps)


def is_squashed(far: PathPoint, near: PathPoint) -> bool:
    """Whether an activation that flattens out on both sides lies between two points."""
    return _kind(far, near) in SATURATING


def _kind(far: PathPoint, near: PathPoint) -> str:
    """What lies between two points: a functional activation if there is one, else the layer."""
    for op in far.ops:
        name = FUNCTIONAL.get(op, op)
        if name in SATURATING or name in RECTIFIERS:
            return name
    return _passed(near)


def _passed(point: PathPoint) -> str:
    return point.leaf or point.type


def _mean_variance(path: GradientPath, profile: GradientProfile) -> float | None:
    """Geometric mean over the path's weights of variance times fan-in (He et al. 2015)."""
    names = {point.name for point in path.points[1:]}
    logs = [
        2 * math.log10(p.norm) - math.log10(p.shape[0])
        for p in profile.parameters
        if p.module in names and p.name.endswith("weight") and len(p.shape) > 1 and p.norm > 0
    ]
    return float(10 ** (sum(logs) / len(logs))) if logs else None


def _activations(path: GradientPath) -> set[str]:
    kinds = {_kind(far, near) for far, near in zip(path.points, path.points[1:], strict=False)}
    return kinds & (RECTIFIERS | SATURATING.keys())


def _initialisation(path: GradientPath) -> str:
    if _activations(path) & RECTIFIERS:
        return 'nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")'
    if "Tanh" in _activations(path):
        return 'nn.init.xavier_normal_(layer.weight, gain=nn.init.calculate_gain("tanh"))'
    return "nn.init.orthogonal_(layer.weight)"


def _zero(path: GradientPath, gate: int, profile: GradientProfile) -> Cause | None:
    """Why nothing comes through to a point, None where that is unknown."""
    near = path.points[min(gate + 1, path.links)]
    if any(p.module == near.name and p.norm == 0 and len(p.shape) > 1 for p in profile.parameters):
        return Cause(
            f"the weights of {near.label} are all zero and stay so",
            "a random initialisation of that layer",
        )
    names = {point.name for point in path.points[: gate + 1]}
    silent = [p.name for p in profile.parameters if p.module in names]
    known = cause_of_silence(silent, profile.stops)
    if known is None and 0 < near.norm < FAINT:
        return Cause(
            f"it has become too small for the number format at {near.label} ({number(near.norm)})",
            "fewer layers, residual connections, or an initialisation that keeps the scale",
        )
    return known

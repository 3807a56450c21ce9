"""Why a gradient shrinks or grows along a path, in words, where the measurements tell."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import geometric_mean, median

from pytest_gradhealth.formatting import count, factor, number, portion
from pytest_gradhealth.results.activation_functions import FUNCTIONAL, RECTIFIERS, SATURATING
from pytest_gradhealth.results.diagnosis import Finding
from pytest_gradhealth.results.names import ancestry
from pytest_gradhealth.results.path import FAINT, GradientPath, PathPoint
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules.beside import beside_the_path, made_of_factors
from pytest_gradhealth.rules.rule import Cause
from pytest_gradhealth.rules.stops import cause_of_silence

#: Layers that multiply by weights.
_WEIGHTED = frozenset({"Linear", "Conv1d", "Conv2d", "Conv3d"})
#: Functions whose slope goes with the size of what comes in.
_OF_SIZE = frozenset({"Cosh", "Exp", "Pow", "Sinh"})
#: Operations that multiply what layers return.
_PRODUCTS = frozenset({"Mul", "Bmm", "Mm", "Dot", "Prod"})


def path_cause(finding: Finding, profile: GradientProfile, *, down: bool) -> Cause | None:
    """Why the gradient vanishes (`down`) or explodes on the path of a finding."""
    if finding.path is None or finding.severity == "info":
        return None
    path = profile.paths[finding.path]
    path = path if down else path.among_layers
    if path.silent_at is not None:
        return _zero(path, path.silent_at, profile)
    return (
        beside_the_path(path, profile, down=down)
        or (made_of_factors(path, profile) if down else None)
        or _one_place(path, profile, down)
        or _by_kind(path, profile, down)
    )


@dataclass(frozen=True)
class _Share:
    """Decades that layers of one kind gain (negative: lose), step by step."""

    kind: str
    steps: tuple[float, ...]

    @property
    def decades(self) -> float:
        return sum(self.steps)

    @property
    def each(self) -> str:
        return factor(self.decades / len(self.steps))

    @property
    def alike(self) -> bool:
        """Whether it is not a few steps that most of it comes from."""
        return 2 * abs(median(self.steps)) * len(self.steps) >= abs(self.decades)


def _one_place(path: GradientPath, profile: GradientProfile, down: bool) -> Cause | None:
    """Most of it is lost or gained between two points; on a short path that tells of products."""
    index = path.largest_step(down=down)
    total = path.vanishing if down else path.exploding
    if index is None or abs(path.steps[index]) < 0.5 * abs(total):
        return None
    near, far = path.points[index + 1], path.points[index]
    flattens = any(FUNCTIONAL.get(op) in SATURATING for op in far.ops)
    if path.links < 4 and down and not (_PRODUCTS.isdisjoint(far.ops) or flattens):
        way = f"from {near.label} to {far.label}"
        return Cause(  # each factor's gradient is made of the others
            f"small factors are multiplied: {portion(path.steps[index], 'it')} comes back {way}",
            "larger initial values, or an optimizer whose steps do not shrink with the gradient"
            " (Adam, Adagrad)",
        )
    if path.links < 4 and (path.links < 2 or abs(path.steps[index]) < 0.8 * abs(total)):
        return None
    return _in_one_place(path, profile, down, "most of it")


def _in_one_place(path: GradientPath, profile: GradientProfile, down: bool, much: str) -> Cause:
    index = path.largest_step(down=down) or 0
    far, near = path.points[index], path.points[index + 1]
    verb, step = "lost" if down else "gained", factor(path.steps[index])
    return Cause(
        f"{much} is {verb} in one place: {step} from {near.label} to {far.label}",
        _place_advice(far, near, profile),
    )


def _place_advice(far: PathPoint, near: PathPoint, profile: GradientProfile) -> str:
    """What to look at where most of the gradient is lost; only some layers have weights."""
    inside = f"{near.name}."
    layer = f"{_passed(near)} in {near.label}"
    if any(p.module == near.name or p.name.startswith(inside) for p in profile.parameters):
        layer += ": its weights"
    functions = [op.lower() for op in far.ops if op in FUNCTIONAL or op in _OF_SIZE]
    between = f"{functions[0]} behind {far.label}, or at " if functions else ""
    return f"look at {between}{layer}, and what multiplies its input (the output of {far.label})"


def _by_kind(path: GradientPath, profile: GradientProfile, down: bool) -> Cause:
    shares = sorted(_shares(path), key=lambda share: share.decades if down else -share.decades)
    total = sum(s.decades for s in shares if (s.decades < 0) == down)
    variances = _variances(path, profile)
    needed = 2.0 if _activations(path) & RECTIFIERS else 1.0
    weights = _tells(sum(math.log10(v / needed) for v in variances) / 2, path, down)
    flat = [share for share in shares if share.kind in SATURATING]
    squashed = flat and flat[0].alike and sum(share.decades for share in flat) <= 0.4 * total
    if down and squashed and not weights:
        worst = flat[0]
        return Cause(
            f"{count(len(worst.steps), worst.kind)} let {worst.each} through each (slope at most"
            f" {SATURATING[worst.kind]})",
            'nn.ReLU() with nn.init.kaiming_normal_(layer.weight, nonlinearity="relu"),'
            " or a normalisation layer before each activation",
        )
    if weights:
        size = "small" if down else "large"
        return Cause(
            f"{_by_layer(shares, total)}the initial weights are {size} (variance x fan-in is"
            f" {number(geometric_mean(variances))}, level is {number(needed)})",
            initialisation(path),
        )
    if not down and any("BatchNorm" in point.leaf for point in path.points):
        return Cause(
            f"it grows {factor(math.log10(path.rate))} per step through batch normalisation, which"
            " amplifies gradients in deep nets without skip connections",
            "residual connections: x + block(x)",
        )
    if path.links < 2 or not _Share("", path.steps).alike:
        return _in_one_place(path, profile, down, "the most" if path.links > 1 else "all of it")
    if shares and (bare := _of_functions(shares[0], total, profile, down)):
        return bare
    verb = "shrinks" if down else "grows"
    return Cause(
        f"it {verb} {factor(math.log10(path.rate))} per step over {count(path.links, 'step')}",
        "a normalisation layer or a residual connection x + block(x) every few layers",
    )


def _of_functions(
    share: _Share, total: float, profile: GradientProfile, down: bool
) -> Cause | None:
    """What functions, or modules without weights, do that are no known activations."""
    known = share.kind in RECTIFIERS or share.kind in SATURATING
    if known or len(share.steps) < 2 or 2 * abs(share.decades) <= abs(total):
        return None
    of_kind = {o.name for o in profile.outputs if share.kind in (o.type, o.leaf)}
    if any(of_kind.intersection(ancestry(p.module)) for p in profile.parameters):
        return None
    does = f"let {share.each} through each" if down else f"make it grow {share.each} each"
    by_size = ", by how large it is what comes in" if share.kind in _OF_SIZE else ""
    return Cause(
        f"{count(len(share.steps), share.kind)} {does}{by_size}",
        "an activation in their place whose slope does not follow the size of what comes in"
        " (nn.ReLU()), or a normalisation layer before each",
    )


def _shares(path: GradientPath) -> Iterator[_Share]:
    steps: dict[str, list[float]] = {}
    for step, far, near in zip(path.steps, path.points, path.points[1:], strict=False):
        steps.setdefault(_kind(far, near), []).append(step)
    return (_Share(kind, tuple(steps[kind])) for kind in steps)


def _by_layer(shares: Sequence[_Share], total: float) -> str:
    """What layers with weights pass on each, where that is most of it, to begin a sentence with."""
    for share in shares:
        most = share.kind in _WEIGHTED and share.alike and 2 * abs(share.decades) > abs(total)
        if most:
            return f"{count(len(share.steps), share.kind)} pass on {share.each} each: "
    return ""


def _tells(explained: float, path: GradientPath, down: bool) -> bool:
    """Whether decades that initial weights gain are most of what a path gains or loses."""
    total = path.vanishing if down else path.exploding
    return explained * total > 0 and 2 * abs(explained) >= abs(total)


def initialisation(path: GradientPath) -> str:
    """The call that sets weights so that the activations on a path keep the size of a signal."""
    if _activations(path) & RECTIFIERS:
        return 'nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")'
    if "Tanh" in _activations(path):
        return 'nn.init.xavier_normal_(layer.weight, gain=nn.init.calculate_gain("tanh"))'
    return "nn.init.orthogonal_(layer.weight)"


def is_squashed(far: PathPoint, near: PathPoint) -> bool:
    """Whether an activation that flattens out on both sides lies between two points."""
    return _kind(far, near) in SATURATING


def _kind(far: PathPoint, near: PathPoint) -> str:
    """What lies between two points: a functional activation if there is one, else the layer."""
    for op in far.ops:
        name = FUNCTIONAL.get(op, op)
        if name in SATURATING or name in RECTIFIERS or name in _OF_SIZE:
            return name
    return _passed(near)


def _passed(point: PathPoint) -> str:
    return point.leaf or point.type


def _variances(path: GradientPath, profile: GradientProfile) -> list[float]:
    """Variance times fan-in of the path's weights (He et al. 2015), at each use of them."""
    found: dict[str, list[float]] = {}
    for p in profile.parameters:
        if p.name.endswith("weight") and len(p.shape) > 1 and p.norm > 0:
            found.setdefault(p.module, []).append(p.norm**2 / p.shape[0])
    return [variance for point in path.points[1:] for variance in found.get(point.name, ())]


def _activations(path: GradientPath) -> set[str]:
    kinds = {_kind(far, near) for far, near in zip(path.points, path.points[1:], strict=False)}
    return kinds & (RECTIFIERS | SATURATING.keys())


def _zero(path: GradientPath, gate: int, profile: GradientProfile) -> Cause | None:
    """Why nothing comes through to a point, None where that is unknown."""
    near = path.points[min(gate + 1, path.links)]
    names = {point.name for point in path.points[: gate + 1]}
    silent = [p.name for p in profile.parameters if p.is_of(names)]
    known = cause_of_silence(silent, profile.stops, profile.loss)
    if known is None and 0 < near.norm < FAINT:
        return Cause(
            f"it has become too small for the number format at {near.label} ({number(near.norm)})",
            "fewer layers, residual connections, or an initialisation that keeps the scale",
        )
    return known

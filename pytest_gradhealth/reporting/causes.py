"""Why a gradient vanishes or explodes, in words, where the measurements tell; and what to try."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_gradhealth.formatting import count, factor, number
from pytest_gradhealth.results.activation_functions import FUNCTIONAL, RECTIFIERS, SATURATING
from pytest_gradhealth.results.diagnosis import Finding
from pytest_gradhealth.results.magnitudes import FORMATS
from pytest_gradhealth.results.path import GradientPath, PathPoint, decades
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules.underflow import advice
from pytest_gradhealth.rules.vanishing import zero_point


@dataclass(frozen=True)
class Cause:
    """A sentence on the cause and one on what to try."""

    because: str
    advice: str


#: Causes that need no measurement.
_PLAIN = {
    "GH103": Cause(
        "the loss is scaled down, or the gradient is lost on the way",
        "a larger loss (a sum instead of a mean, no constant factor), or a smaller eps",
    ),
    "GH203": Cause(
        "inputs that were not scaled, large initial weights, or a sum over many layers",
        "standardised inputs, nn.init.kaiming_normal_ for the weights, or a normalisation layer",
    ),
    "GH402": Cause(
        "large negative biases, inputs that were not scaled, or a step that was too long",
        "zero biases, standardised inputs, a smaller learning rate, or nn.LeakyReLU()",
    ),
    "GH403": Cause(
        "what comes in is too large: inputs that were not scaled, large weights or large biases",
        "standardised inputs, smaller weights and biases, or a normalisation layer before it",
    ),
    "GH404": Cause(
        "small weights forget what tells the examples apart, or large biases drown it",
        "larger initial weights, inputs of standard deviation 1, or a residual connection",
    ),
    "GH405": Cause(
        "their module is never called, does without them, or its output is not used",
        "use them, delete them, or freeze them with requires_grad_(False)",
    ),
    "GH406": Cause(
        "a constant initialisation: whatever is learned, each of them learns the same",
        "nn.init.kaiming_normal_(layer.weight), or any other random initialisation",
    ),
    "GH408": Cause(
        "layers in a plain list, tuple or dict, or parameters of another model",
        "nn.ModuleList, nn.ModuleDict or nn.ParameterList, or register_parameter",
    ),
    "GH407": Cause(
        "all tokens look alike there, so that it makes no difference which is attended to",
        "residual connections around the attention, or fewer layers",
    ),
}


@dataclass(frozen=True)
class _Share:
    """Decades that layers of one kind gain together (negative: lose), over how many steps."""

    kind: str
    decades: float
    steps: int

    @property
    def each(self) -> str:
        return factor(self.decades / self.steps)


def cause_of(finding: Finding, profile: GradientProfile) -> Cause | None:
    """Return what is known about the cause of a finding, None if that is nothing."""
    if finding.code == "GH301":
        return _non_finite(profile)
    if finding.code == "GH401" and finding.severity != "info":
        return _unreached(finding)
    if finding.code in _PLAIN:
        return _PLAIN[finding.code]
    if finding.code == "GH501":
        span = FORMATS[profile.loss_scale.format]
        return Cause(
            f"{profile.loss_scale.format} holds nothing below 2^{span.lowest} and nothing above"
            f" 2^{span.highest + 1}",
            advice(profile),
        )
    if finding.code == "GH102":
        return _in_time(finding, profile)
    if finding.code == "GH202":
        return _update(finding, profile)
    if finding.code == "GH601" and finding.value is not None:
        return _penalty(finding.value)
    if finding.path is None or finding.code not in ("GH101", "GH201") or finding.severity == "info":
        return None
    path = profile.paths[finding.path]
    if path.last.norm == 0:
        return Cause(
            "the loss does not change with the model's output",
            "look for a clamp, a rounding or a detach() between output and loss",
        )
    gate = zero_point(path)
    if gate is not None:
        return _zero(path, gate, profile)
    down = finding.code == "GH101"
    return _one_place(path, profile, down) or _by_kind(path, profile, down)


def _one_place(path: GradientPath, profile: GradientProfile, down: bool) -> Cause | None:
    index = path.largest_step(down=down)
    total = path.vanishing if down else path.exploding
    if index is None or path.links < 4 or abs(path.steps[index]) < 0.5 * abs(total):
        return None
    near, far = path.points[index + 1], path.points[index]
    verb = "lost" if down else "gained"
    return Cause(
        f"most of it is {verb} in one place: {factor(path.steps[index])} from {near.label} to"
        f" {far.label}",
        _place_advice(near, profile),
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
    needed = _needed_variance(path)
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


def _kind(far: PathPoint, near: PathPoint) -> str:
    """What lies between two points: a functional activation if there is one, else the layer."""
    for op in far.ops:
        name = FUNCTIONAL.get(op, op)
        if name in SATURATING or name in RECTIFIERS:
            return name
    return near.leaf or near.type


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


def _needed_variance(path: GradientPath) -> float:
    return 2.0 if _activations(path) & RECTIFIERS else 1.0


def _initialisation(path: GradientPath) -> str:
    if _activations(path) & RECTIFIERS:
        return 'nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")'
    if "Tanh" in _activations(path):
        return 'nn.init.xavier_normal_(layer.weight, gain=nn.init.calculate_gain("tanh"))'
    return "nn.init.orthogonal_(layer.weight)"


def _zero(path: GradientPath, gate: int, profile: GradientProfile) -> Cause:
    silent, near = path.points[gate], path.points[min(gate + 1, path.links)]
    kind = _kind(silent, near)
    if kind == "Softmax" and near.shape and near.shape[-1] == 1:
        return Cause(
            f"{near.label} is a softmax over one unit, which is 1 whatever comes in",
            "nn.Sigmoid(), or two units",
        )
    if near.activation == 0 and near.leaf in RECTIFIERS:
        return Cause(
            f"all units of {near.label} are dead: its output is zero for the whole batch",
            "smaller or zero biases, scaled inputs, or nn.LeakyReLU()",
        )
    if any(p.module == near.name and p.norm == 0 and len(p.shape) > 1 for p in profile.parameters):
        return Cause(
            f"the weights of {near.label} are all zero and stay so",
            "a random initialisation of that layer",
        )
    if 0 < near.norm < 1e-30:
        return Cause(
            f"it has become too small for the number format at {near.label} ({number(near.norm)})",
            "fewer layers, residual connections, or an initialisation that keeps the scale",
        )
    return Cause(
        f"nothing comes back through {near.label}",
        "look for a detach(), a rounding or a comparison between the two layers",
    )


def _non_finite(profile: GradientProfile) -> Cause | None:
    bad = profile.non_finite
    if bad is None:
        return None
    if bad.parameter:
        return Cause(
            f"{bad.parameter} of {bad.layer} holds it", "check how it is initialised or loaded"
        )
    if bad.during == "backward":
        known = {
            "Sqrt": "sqrt has an infinite slope at 0: torch.sqrt(x + 1e-8)",
            "Pow": "a power below 1 has an infinite slope at 0: (x + 1e-8) ** p",
            "LinalgVectorNorm": "a norm has no slope at 0: add 1e-8 before taking it",
            "Log": "log has an infinite slope at 0: torch.log(x.clamp_min(1e-8))",
            "Div": "a division by something near 0: add 1e-8 below the bar",
        }
        advice = known.get(bad.op, "clamp what goes in, or add a small constant")
        return Cause(f"the backward of {bad.op or bad.layer} divides by zero or overflows", advice)
    if bad.during == "loss":
        return Cause("the loss function itself overflows or takes log(0)", "a loss on logits")
    return Cause(
        f"{bad.type or bad.layer} overflows, divides by zero or takes log(0)",
        "scaled inputs, smaller weights, or a clamp before it",
    )


def _unreached(finding: Finding) -> Cause | None:
    if "cut off from the loss" in finding.message:
        return Cause(
            "a detach(), a no_grad() or an operation without a slope lies on the way to the loss",
            "take it out, or freeze them with requires_grad_(False)",
        )
    return None


def _update(finding: Finding, profile: GradientProfile) -> Cause | None:
    if not profile.updates:
        return None
    first = max(profile.updates, key=lambda update: update.change == finding.value)
    slower = "a smaller learning rate"
    if finding.value and finding.limit:
        slower = f"a learning rate {number(finding.value / finding.limit)} times smaller"
    norm = number(first.gradient)
    if first.clipped < first.gradient:
        return Cause(
            f"the gradient norm {norm} is clipped to {number(first.clipped)}, and the step is still"
            " too long",
            slower,
        )
    return Cause(
        f"the gradient norm is {norm} in step {first.step}, unclipped",
        "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) between loss.backward() and"
        f" optimizer.step(), or {slower}",
    )


def _in_time(finding: Finding, profile: GradientProfile) -> Cause | None:
    """What a step passes on, from the last one to the dependency, and what keeps more of it."""
    records = [r for r in profile.times if r.name == finding.layer]
    if not records:
        return None
    record = min(records, key=lambda r: r.reach)
    layer, back = record.name, record.dependency
    if record.norms[back] == 0 or record.norms[0] == 0:
        because = f"nothing of it gets {count(back, 'step')} back through {layer}"
    else:
        each = factor(decades(record.norms[back], record.norms[0]) / back)
        because = f"each step of {layer} ({record.type}) passes on {each} of the gradient"
    gate = {"LSTM": "forget", "GRU": "update"}.get(record.type)
    if gate is not None:
        bias = f"model.{layer}.bias_hh_l0.data[H : 2 * H] = {math.log(back + 1):.3g}"
        return Cause(because, f"a larger {gate}-gate bias: {bias}, where H is the hidden size")
    if record.type == "RNN":
        advice = f"nn.init.orthogonal_(model.{layer}.weight_hh_l0), or an nn.LSTM"
        return Cause(because, f"{advice} with a forget-gate bias")
    return Cause(because, "an orthogonal recurrent weight, a gate, or a skip through time")


def _penalty(value: float) -> Cause:
    if math.isinf(value):
        return Cause(
            "the loss has no gradient there at all, so that only the penalty moves the weights",
            "find out why no gradient arrives before choosing a penalty",
        )
    return Cause(
        "at that strength the weights follow the penalty and not the data",
        f"a penalty or weight decay {number(value)} times weaker makes both equally strong",
    )


def causes_of(findings: Sequence[Finding], profile: GradientProfile) -> list[Cause]:
    """The causes of several findings, each once, in their order."""
    found = [cause_of(finding, profile) for finding in findings if finding.seed == profile.seed]
    return list(dict.fromkeys(cause for cause in found if cause is not None))

"""What was measured, found and decided: frozen dataclasses of plain builtins.

Norms are L2 norms. *Decades* are base-10 logarithms of ratios: a gradient that arrives a thousand
times smaller has lost 3 decades.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pytest_gradhealth.plain import LIVE, from_plain, to_plain

Severity = Literal["failure", "warning", "info"]
Verdict = Literal["healthy", "warning", "failure"]

#: How the gradient of a module output was found: measured (possibly exactly zero), waiting for a
#: gradient that never came, cut off from every trainable parameter, of a module whose forward
#: never ran, out of reach because the module returned nothing a hook could be put on, or without
#: influence on the loss.
OutputState = Literal["measured", "unreached", "no-grad", "not-called", "no-tensor", "ignored"]

#: What came of a remedy: the failed rule passes and the loss falls; part of that, or none of it; it
#: could not be applied; there was no time for it.
Outcome = Literal["cured", "better", "no effect", "worse", "cannot", "not tried"]

#: How the gradient of a parameter was found: it has one (zero counts, when all its elements are
#: exactly zero), nothing used it, or it is frozen.
ParameterState = Literal["gradient", "zero", "none", "frozen"]

INPUT = "(input)"
OUTPUT = "(output)"


def decades(numerator: float, denominator: float) -> float:
    """Return log10(numerator / denominator) of two norms without overflow.

    A zero numerator gives -inf, also over zero (nothing arrived); NaN or infinite norms give NaN.

    >>> decades(1e-200, 1e200)
    -400.0
    """
    if not (math.isfinite(numerator) and math.isfinite(denominator)):
        return math.nan
    if numerator == 0:
        return -math.inf
    if denominator == 0:
        return math.inf
    return math.log10(numerator) - math.log10(denominator)


def power(exponent: float) -> float:
    """Return 10**exponent, saturating at 0 and inf instead of raising OverflowError."""
    if exponent > 308.25:
        return math.inf
    return 0.0 if exponent < -323.3 else float(10.0**exponent)


@dataclass(frozen=True)
class PathPoint:
    """One module output on a gradient path, with the gradient of the loss with respect to it.

    `norm` is the gradient's L2 norm and `activation` that of the output itself; `call` counts the
    calls of the same module in one forward, `output` the tensors that one call returned. `leaf` is
    the type of the innermost module that returned this very tensor, `ops` the functions applied to
    it outside of any recorded module before the next point, and `width` the number of units (times
    the kernel size of a convolution), where the module has a weight.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    norm: float
    numel: int
    call: int = 0
    output: int = 0
    activation: float = math.nan
    leaf: str = ""
    ops: tuple[str, ...] = ()
    width: int | None = None

    @property
    def label(self) -> str:
        """The name, with the numbers of output and call from the second ones on: "lstm:1#2"."""
        output = f":{self.output}" if self.output else ""
        return self.name + output + (f"#{self.call}" if self.call else "")

    @property
    def title(self) -> str:
        """Label and type: "layers.3 (Linear)"."""
        return f"{self.label} ({self.type})"

    @property
    def rms(self) -> float:
        """Root mean square of the gradient's elements."""
        return self.norm / math.sqrt(self.numel)


def l2_decades(point: PathPoint, reference: PathPoint) -> float:
    """Decades between the L2 norms of two points' gradients."""
    return decades(point.norm, reference.norm)


def rms_decades(point: PathPoint, reference: PathPoint) -> float:
    """Decades between the root mean squares of two points' gradients."""
    return l2_decades(point, reference) - 0.5 * math.log10(point.numel / reference.numel)


@dataclass(frozen=True)
class GradientPath:
    """The module outputs that every way from the loss to one first layer crosses.

    `points` run from the first layer to the loss. `entry` is the call of the first layer that gets
    the most gradient: the first point itself, unless that layer is called again and again, as a
    recurrent cell is. A path that is not `judged` starts at an output that does not depend on the
    batch (a position bias, say) and is only reported.
    """

    points: tuple[PathPoint, ...]
    entry: PathPoint
    judged: bool = True

    @property
    def first(self) -> PathPoint:
        """The first layer's output (or the model input, when it requires grad)."""
        return self.points[0]

    @property
    def last(self) -> PathPoint:
        """The point nearest to the loss."""
        return self.points[-1]

    @property
    def links(self) -> int:
        """Number of steps from point to point."""
        return len(self.points) - 1

    @property
    def ratio(self) -> float:
        """L2 norm of the gradient at the first point over that at the last."""
        if self.last.norm == 0:
            return 0.0 if self.first.norm == 0 else math.inf
        return self.first.norm / self.last.norm

    @property
    def l2(self) -> float:
        """The same in decades."""
        return l2_decades(self.first, self.last)

    @property
    def vanishing(self) -> float:
        """V, in decades: the larger of the L2 and RMS ratios, entry over last."""
        return self.reach(self.entry)

    @property
    def exploding(self) -> float:
        """X, in decades: the smaller of the L2 and RMS ratios, first over last.

        A first call without any gradient (on padding, say) leaves its place to the entry.
        """
        return self.growth(self.first if self.first.norm else self.entry)

    def reach(self, point: PathPoint) -> float:
        """V of the part of the path from the loss to `point`."""
        return max(l2_decades(point, self.last), rms_decades(point, self.last))

    def growth(self, point: PathPoint) -> float:
        """X of the part of the path from the loss to `point`."""
        return min(l2_decades(point, self.last), rms_decades(point, self.last))

    @property
    def rate(self) -> float:
        """Geometric mean of the L2 factor per step towards the first layer."""
        return power(self.l2 / self.links) if self.links else 1.0

    @property
    def steps(self) -> tuple[float, ...]:
        """Decades gained from point i + 1 to point i, one per link, in the order of the points."""
        return tuple(
            l2_decades(nearer, farther)
            for nearer, farther in zip(self.points, self.points[1:], strict=False)
        )

    @property
    def finite(self) -> bool:
        """Whether every norm on the path is a finite number."""
        return all(math.isfinite(point.norm) for point in self.points)

    def largest_step(self, *, down: bool) -> int | None:
        """Index of the point at which the gradient shrinks (`down`) or grows most in one step."""
        if not self.links:
            return None
        sign, steps = (1 if down else -1), self.steps
        return min(range(self.links), key=lambda i: (sign * steps[i], -i))

    def crossing(self, limit: float, *, down: bool) -> PathPoint:
        """First point, coming from the loss, at which the running V (X) passes `limit` decades."""
        for point in reversed(self.points):
            if (self.reach(point) < limit) if down else (self.growth(point) > limit):
                return point
        return self.entry if down else self.first


@dataclass(frozen=True)
class OutputRecord:
    """The gradient of the loss with respect to one tensor that one call of a module returned.

    `norm` is None unless the state is "measured"; `output` numbers the tensors of one call; `leaf`
    is the type of the innermost module that returned this very tensor. `tokens` says how far the
    tokens lie apart that attention gets: RMS distance from their mean over RMS.
    """

    name: str
    type: str
    state: OutputState
    shape: tuple[int, ...] = ()
    numel: int = 0
    norm: float | None = None
    activation: float | None = None
    call: int = 0
    output: int = 0
    leaf: str = ""
    tokens: float | None = None


def module_of(parameter: str) -> str:
    """Name of the module that holds a parameter, or that a parametrised one is made for.

    >>> module_of("head.weight"), module_of("conv.parametrizations.weight.original0")
    ('head', 'conv')
    """
    owner, _, rest = parameter.partition(".parametrizations.")
    return owner if rest else parameter.rpartition(".")[0]


@dataclass(frozen=True)
class ParameterRecord:
    """A parameter, its L2 norm and that of its gradient (None without one).

    `alignment` is the cosine between a weight and its gradient: zero for a weight whose scale does
    not matter, as before a normalisation layer. `penalty` is the L2 norm of the gradient of the
    regularisation term (weight decay included where it is part of the gradient), None without one.
    `other_names` are further names of a shared parameter. `same` says that all rows of a weight are
    equal, and so are those of its gradient; `thirds` are the gradient's norms for query, key and
    value where one weight makes all three.
    """

    name: str
    shape: tuple[int, ...]
    state: ParameterState
    norm: float
    gradient: float | None = None
    alignment: float | None = None
    penalty: float | None = None
    other_names: tuple[str, ...] = ()
    same: bool = False
    thirds: tuple[float, float, float] | None = None

    @property
    def module(self) -> str:
        """Name of the module that holds the parameter, or that a parametrised one is made for."""
        return module_of(self.name)


@dataclass(frozen=True)
class ActivationRecord:
    """An activation function and what it let through, over the whole batch.

    `name` and `type` are those of its module or, for a function, of the layer before it. `dead` is
    the share of its `units` (features or channels) that are zero for the whole batch, None for
    functions that cannot be; `flat` the share of elements where its slope is below a hundredth of
    the largest, None for functions that do not saturate. `after` names the layer before it where
    one module serves several.
    """

    name: str
    type: str
    function: str
    units: int
    dead: float | None = None
    flat: float | None = None
    after: str = ""

    @property
    def title(self) -> str:
        """The name, and the layer before it where that is needed to tell which is meant."""
        return f"{self.name} after {self.after}" if self.after else self.name


@dataclass(frozen=True)
class NonFinite:
    """Where the first NaN or infinity came up.

    `during` is "forward", "loss" or "backward"; `layer` the module that produced it; `op` the
    operation, where known; `parameter` a parameter of that module that is itself not finite.
    """

    during: Literal["forward", "loss", "backward"]
    layer: str
    type: str
    value: str
    op: str = ""
    parameter: str = ""


#: For a NaN that a second run does not show again, or that another process has brought in.
SOMEWHERE = NonFinite("backward", "(loss)", "", "nan")


@dataclass(frozen=True)
class Update:
    """One step of the user's training, made on a copy.

    `gradient` is the L2 norm of all parameters' gradients before clipping, `clipped` that after.
    `change` is the largest relative change of a weight: the L2 norm of what the step adds to it
    over its own (or that of a level initialisation, if larger), per backward of the step, of which
    LBFGS makes several; `layer` is where that was.
    """

    step: int
    loss: float
    gradient: float
    clipped: float
    layer: str
    change: float

    @property
    def finite(self) -> bool:
        """Whether loss, gradient and change are finite numbers."""
        return all(map(math.isfinite, (self.loss, self.gradient, self.clipped, self.change)))


@dataclass(frozen=True)
class NumberFormat:
    """A floating format by powers of two: the smallest and the largest that it can hold."""

    lowest: int
    highest: int


#: Formats whose effect on gradients can be forecast; subnormal numbers count.
FORMATS: Mapping[str, NumberFormat] = {
    "float16": NumberFormat(-24, 15),
    "bfloat16": NumberFormat(-133, 127),
}


@dataclass(frozen=True)
class LossScale:
    """What the loss is multiplied by in training, and the format that is for ("" if unknown).

    `adapts` is that of a GradScaler.
    """

    format: str = ""
    value: float = 1.0
    adapts: bool = False

    @property
    def exponent(self) -> int:
        """The power of two that the scale amounts to, rounded down."""
        return math.frexp(self.value)[1] - 1


@dataclass(frozen=True)
class MagnitudeRecord:
    """How many elements of a gradient there are by powers of two, zeros left out.

    `counts[i]` elements lie in [2**(low + i), 2**(low + i + 1)); `type` is that of the module whose
    output it is, or "weight".
    """

    name: str
    type: str
    low: int
    counts: tuple[int, ...]

    @property
    def title(self) -> str:
        """Name and type: "layers.3 (Linear)"; a weight's name says it all."""
        return self.name if self.type == "weight" else f"{self.name} ({self.type})"

    @property
    def high(self) -> int:
        """The largest power of two with elements."""
        return self.low + len(self.counts) - 1

    def flushed(self, kind: str, shift: int) -> float:
        """Share of the elements that become zero in a format once multiplied by 2**shift.

        Half of the smallest number is rounded to zero (ties to even).
        """
        return self._below(FORMATS[kind].lowest - 1 - shift, 0) / max(1, sum(self.counts))

    def lost(self, kind: str, shift: int) -> float:
        """Share of the L2 norm that goes with them, to within an octave."""
        all_ = self._below(self.high + 1, 2)
        return math.sqrt(self._below(FORMATS[kind].lowest - 1 - shift, 2) / all_) if all_ else 0.0

    def needs(self, kind: str, share: float) -> int:
        """The least shift at which no more than a share is flushed."""
        allowed, below = share * sum(self.counts), 0
        for index, count in enumerate(self.counts):
            below += count
            if below > allowed:
                return FORMATS[kind].lowest - 1 - self.low - index
        return FORMATS[kind].lowest - 1 - self.high

    def _below(self, exponent: int, power_: int) -> float:
        """Sum over the elements below 2**exponent of a power of their size, over the largest."""
        return math.fsum(
            count * 2.0 ** (power_ * (index + 1 - len(self.counts)))
            for index, count in enumerate(self.counts)
            if self.low + index < exponent
        )


@dataclass(frozen=True)
class TimeRecord:
    """How much of the gradient at the last state of a sequence reaches earlier steps.

    `name` and `type` are those of the layer that the sequence enters by; `norms[d]` is the L2 norm
    of the gradient at what it gets `d` steps before the end, RMS over the sequences that are so
    long. `dependency` is how far back the gradient has to reach; `reverse` is the backward
    direction of a bidirectional layer, whose end is the first step. `blank` lists the distances at
    which all that the layer gets is zero: padding, or the margin of an image.
    """

    name: str
    type: str
    norms: tuple[float, ...]
    dependency: int
    reverse: bool = False
    blank: tuple[int, ...] = ()

    @property
    def reach(self) -> float:
        """What gets `dependency` steps back or further, over the largest of all, in decades.

        Where a ReLU has seen nothing yet but zeros it has no slope: such steps do not count, and
        where there are no others so far back, the farthest that counts stands for them.
        """
        silent = {d for d in self.blank if self.norms[d] == 0}
        counting = [d for d in range(len(self.norms)) if d not in silent]
        if not counting:
            return -math.inf
        far = [d for d in counting if d >= self.dependency] or counting[-1:]
        return decades(max(self.norms[d] for d in far), max(self.norms))

    @property
    def finite(self) -> bool:
        """Whether every norm is a finite number."""
        return all(map(math.isfinite, self.norms))

    def horizon(self, limit: float) -> int:
        """How many steps back at most `limit` decades of the gradient get."""
        return max(d for d, n in enumerate(self.norms) if decades(n, max(self.norms)) >= limit)


@dataclass(frozen=True)
class GradientProfile:
    """One look at one model: a forward and a backward pass on one batch under one seed.

    `steps` counts the optimizer steps before the look (0: as given). `awake` names parameters
    that read "none" or "zero" in this look but had a gradient in one of those steps. `updates` are
    the training steps made from here, where a rule needs them. `spread` says how far the model's
    outputs for different examples lie apart: RMS distance from their mean over RMS, relative to the
    same of the inputs; `magnitude` is the RMS of the outputs (over that of floating targets, if
    larger than 1), the smallest where there are several. Both are None without outputs to compare.
    `keyed` names the nn.ModuleDicts in the model. `times` says how gradients fare through time,
    where a dependency was declared; `magnitudes` how large their elements are, where a precision
    was, to be judged at `loss_scale`. `unregistered` are the shapes of parameters that the forward
    uses and the model does not list.
    """

    seed: int
    steps: int
    loss: float
    paths: tuple[GradientPath, ...]
    outputs: tuple[OutputRecord, ...] = ()
    parameters: tuple[ParameterRecord, ...] = ()
    non_finite: NonFinite | None = None
    awake: tuple[str, ...] = ()
    updates: tuple[Update, ...] = ()
    activations: tuple[ActivationRecord, ...] = ()
    spread: float | None = None
    magnitude: float | None = None
    keyed: tuple[str, ...] = ()
    times: tuple[TimeRecord, ...] = ()
    magnitudes: tuple[MagnitudeRecord, ...] = ()
    unregistered: tuple[tuple[int, ...], ...] = ()
    loss_scale: LossScale = field(default_factory=LossScale)

    @property
    def judged_paths(self) -> tuple[GradientPath, ...]:
        """The paths whose first layer carries data."""
        return tuple(path for path in self.paths if path.judged)

    @property
    def uncalled(self) -> tuple[str, ...]:
        """Modules whose forward never ran."""
        return tuple(o.name for o in self.outputs if o.state == "not-called")

    def norm_of(self, module: str) -> float | None:
        """Largest gradient norm measured on the outputs of `module`, None if none was."""
        norms = [o.norm for o in self.outputs if o.name == module and o.norm is not None]
        return max(norms, default=None)


@dataclass(frozen=True)
class Limit:
    """A threshold and where it came from ("default", "the call", ...)."""

    value: float
    source: str


@dataclass(frozen=True)
class Finding:
    """What one rule found: `value` was measured at `layer`, against `limit` from `limit_source`.

    `value` and `limit` are ratios, not decades; both are None where a rule compares nothing.
    `path` is the index of the gradient path in the profile of the seed that shows it.
    """

    code: str
    rule: str
    severity: Severity
    layer: str
    message: str
    value: float | None = None
    limit: float | None = None
    limit_source: str = ""
    seed: int | None = None
    path: int | None = None


@dataclass(frozen=True)
class Measure:
    """How a model, or a copy with a remedy, did.

    `value` is what the failed rule compares with its limit (a ratio; None where it compares
    nothing), `start` and `end` the loss at the first and the last of `steps` training steps.
    """

    value: float | None = None
    start: float | None = None
    end: float | None = None
    steps: int = 0


@dataclass(frozen=True)
class Treatment:
    """One remedy, tried on a copy: what came of it, and the code that does the same.

    `rule` is the code of the failed rule whose value is compared. `before` was measured on an
    unchanged copy, `after` on the changed one (None if it was not tried or could not be applied).
    `reason` says why, where the numbers do not; `family` is the kind of remedy.
    """

    remedy: str
    outcome: Outcome
    rule: str
    before: Measure
    after: Measure | None = None
    code: str = ""
    reason: str = ""
    family: str = ""


RANK: Mapping[str, int] = {"failure": 0, "warning": 1, "info": 2}


@dataclass(frozen=True)
class Diagnosis:
    """The verdict on one model and batch, with everything it rests on.

    `profiles` holds one look per seed, and a second look after the confirm steps where the first
    would have failed. `findings` are sorted worst first. `sgd` says whether the default limits are
    those for SGD. `treatments` are the remedies that were tried, best first. `origin` is what was
    diagnosed, which remedies are tried on: it stays in this process. Printing a diagnosis gives the
    table and the words of a failure message.
    """

    model: str
    verdict: Verdict
    findings: tuple[Finding, ...]
    profiles: tuple[GradientProfile, ...]
    device: str = "cpu"
    optimizer: str = "Adam(lr=0.001)"
    sgd: bool = False
    confirm_steps: int = 5
    limits: Mapping[str, Limit] = field(default_factory=dict)
    milliseconds: float = 0.0
    treatments: tuple[Treatment, ...] = ()
    version: int = 1
    origin: Any = field(default=None, repr=False, compare=False, metadata={LIVE: True})

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "origin"}

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that were looked at, in order."""
        return tuple(dict.fromkeys(profile.seed for profile in self.profiles))

    @property
    def decisive_seed(self) -> int:
        """The seed of the worst finding, else the first."""
        seeds = (finding.seed for finding in self.findings if finding.seed is not None)
        return next(seeds, self.profiles[0].seed)

    @property
    def profile(self) -> GradientProfile:
        """The first look under the decisive seed."""
        return next(self.looks(self.decisive_seed))

    def looks(self, seed: int) -> Iterator[GradientProfile]:
        """The looks under one seed: as given, then, if it was needed, after the confirm steps."""
        return (profile for profile in self.profiles if profile.seed == seed)

    @property
    def confirmation(self) -> GradientProfile | None:
        """The second look under the decisive seed, if there was one."""
        return next((p for p in self.looks(self.decisive_seed) if p.steps), None)

    @property
    def paths(self) -> tuple[GradientPath, ...]:
        """The gradient paths of `profile`."""
        return self.profile.paths

    @property
    def worst_path(self) -> GradientPath | None:
        """The path of the worst finding, else the judged path that is farthest from level."""
        return worst_path(self.profile, self.findings)

    @property
    def ratio(self) -> float:
        """L2 gradient norm, first over last, of the worst path (NaN if there is no path)."""
        path = self.worst_path
        return math.nan if path is None else path.ratio

    def of(self, codes: Sequence[str]) -> tuple[Finding, ...]:
        """The findings of some rules."""
        return tuple(finding for finding in self.findings if finding.code in codes)

    def to_dict(self) -> dict[str, Any]:
        """Plain builtins, valid as JSON (NaN and infinities as strings)."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Diagnosis:
        """Read back what `to_dict` wrote."""
        return from_plain(cls, data)

    def __str__(self) -> str:
        from pytest_gradhealth.messages import render

        return render(self)

    def _repr_html_(self) -> str:
        """The plot and the table of the HTML report, for notebooks."""
        from pytest_gradhealth.reporting.html import html_fragment

        return html_fragment(self)


def worst_path(profile: GradientProfile, findings: Sequence[Finding]) -> GradientPath | None:
    """Return the path of the first finding that names one, else the farthest from level."""
    for finding in findings:
        if finding.path is not None and finding.seed == profile.seed:
            return profile.paths[finding.path]
    paths = profile.judged_paths or profile.paths
    return max(paths, key=_farness, default=None)


def _farness(path: GradientPath) -> float:
    if not path.finite:
        return math.inf
    return max(-path.vanishing, path.exploding)


def verdict_of(findings: Sequence[Finding]) -> Verdict:
    """Return the worst severity, "healthy" if there is nothing worse than information."""
    severities = {finding.severity for finding in findings}
    if "failure" in severities:
        return "failure"
    return "warning" if "warning" in severities else "healthy"

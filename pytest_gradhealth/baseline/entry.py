"""What is kept of a probe: its paths in decades, which layers get gradient, how it was measured."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from pytest_gradhealth.baseline.numbers import KeptNumbers, numbers_of, place_of
from pytest_gradhealth.results.diagnosis import Diagnosis, Verdict
from pytest_gradhealth.results.flow import FlowRecord
from pytest_gradhealth.results.names import OUTPUT, module_of
from pytest_gradhealth.results.path import GradientPath
from pytest_gradhealth.results.profile import GradientProfile, ParameterRecord
from pytest_gradhealth.results.serialization import AtLeast
from pytest_gradhealth.results.weights import WeightRecord

#: Decimals of a decade that are kept: a hundredth is 2 %.
DECIMALS = 2
#: What a label has behind the name of its module: the numbers of output and call.
_NUMBERS = re.compile(r"(:\d+)?(#\d+)?$")

#: What becomes of parameters in a backward: they get gradient, in a layer whose output is seen or
#: inside something else (a checkpoint, say); they belong to an expert of a mixture that nothing in
#: this batch was sent to; they are frozen; what they get is exactly zero; they belong to a member
#: of a list that is not called while others are; they get none.
Use = Literal["gradient", "inside", "idle", "frozen", "zero", "uncalled", "none"]


@dataclass(frozen=True)
class KeptPoint:
    """One layer of a path: `norm` is the L2 norm of its gradient in decades (log10)."""

    layer: str
    type: str
    norm: float

    @property
    def title(self) -> str:
        """Name and type: "layers.3 (Linear)"."""
        return f"{self.layer} ({self.type})"

    @property
    def module(self) -> str:
        """The layer's name without the numbers of output and call."""
        return _NUMBERS.sub("", self.layer)


@dataclass(frozen=True)
class KeptPath:
    """A gradient path from the first layer to the loss; `ratio` is first over last in decades.

    The ratio is that of all calls of the first layer, where they count together. A path that is not
    `judged` was found to start at an output that carries no data.
    """

    ratio: float
    points: Annotated[tuple[KeptPoint, ...], AtLeast(1)]
    judged: bool = True

    @property
    def first(self) -> KeptPoint:
        """The layer that the path is about."""
        return self.points[0]

    def from_layer(self, point: KeptPoint) -> KeptPath | None:
        """The path of a layer that lies on this one, None if it does not."""
        titles = [each.title for each in self.points]
        if point.title not in titles:
            return None
        rest = self.points[titles.index(point.title) :]
        here, last = rest[0].norm, rest[-1].norm
        return replace(self, ratio=0.0 if here == last else here - last, points=rest)


@dataclass(frozen=True)
class KeptParameters:
    """The elements of a layer's own parameters that share one `use`.

    `names` are those of the parameters, where the layer has others or is the model itself.
    """

    layer: str
    use: Use
    elements: Annotated[int, AtLeast(0)]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """What a baseline keeps of one check.

    `paths` are all that there are; `parameters` those of every layer, None in files that are older
    than that; `unlisted` counts the elements that the forward uses and the model does not list.
    `flow` says which layers use which, None in files that are older and reports that do not know.
    `output` is the RMS of the model's outputs in decades, None without any to compare. With
    `training`, all that was measured in training mode though the model was in evaluation mode.
    `numbers` are compared within a tolerance, each place by itself: a type of device and a format;
    `weights` as distributions.
    `limits` and `environment` are information, which no comparison reads.
    """

    verdict: Verdict
    paths: tuple[KeptPath, ...]
    output: float | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    parameters: tuple[KeptParameters, ...] | None = None
    unlisted: Annotated[int, AtLeast(0)] = 0
    training: bool = False
    flow: tuple[FlowRecord, ...] | None = None
    numbers: Mapping[str, KeptNumbers] = field(default_factory=dict)
    weights: tuple[WeightRecord, ...] = ()


def entry_of(
    diagnosis: Diagnosis,
    environment: Mapping[str, str],
    look: GradientProfile | None = None,
    known: Mapping[str, Use] | None = None,
    rtol: float | None = None,
) -> Entry:
    """Reduce a diagnosis to what a baseline keeps: by default the first look under the first seed.

    The decisive seed of one run need not be that of another. `known` says what becomes of
    parameters where that takes more than their record to know. Numbers are kept for a comparison
    within `rtol`, none without.

    >>> from pytest_gradhealth.results.path import GradientPath, PathPoint
    >>> from pytest_gradhealth.results.profile import GradientProfile
    >>> first = PathPoint("0", "Linear", (8, 4), norm=0.01, numel=32)
    >>> last = PathPoint("1", "Linear", (8, 4), norm=1.0, numel=32)
    >>> look = GradientProfile(0, 0, 2.3, paths=(GradientPath((first, last), entry=first),))
    >>> entry_of(Diagnosis("Net", "healthy", (), (look,)), {}).paths[0].ratio
    -2.0
    """
    look = look or diagnosis.profiles[0]
    return Entry(
        verdict=diagnosis.verdict,
        paths=tuple(map(_path, look.uncut or look.paths)),
        output=None if (size := look.lasting_magnitude) is None else _decades(size),
        limits={name: limit.value for name, limit in sorted(diagnosis.limits.items())},
        environment={"device": diagnosis.device, "optimizer": diagnosis.optimizer, **environment},
        parameters=tuple(_parameters(look, known or {})),
        unlisted=sum(map(math.prod, look.unregistered)),
        training=look.training,
        flow=look.flow or None,
        weights=tuple(weights.short() for weights in look.weights),
        numbers={} if rtol is None else {place_of(diagnosis): numbers_of(look, rtol)},
    )


def _path(path: GradientPath) -> KeptPath:
    points = tuple(KeptPoint(p.label, p.type, _decades(p.norm)) for p in path.points)
    return KeptPath(_rounded(_ratio(path)), points, path.judged)


def _parameters(look: GradientProfile, known: Mapping[str, Use]) -> Iterator[KeptParameters]:
    """The parameters of each layer, by what becomes of them.

    A shared one belongs to the first of its names in the alphabet, whatever is registered first.
    """
    seen = {output.name for output in look.outputs if output.norm is not None}
    kept: dict[tuple[str, Use], dict[str, int]] = {}
    for parameter in look.parameters:
        name = min((parameter.name, *parameter.other_names))
        layer = module_of(name) or OUTPUT
        use = known.get(parameter.name) or _use(parameter, seen=layer in seen)
        own = name.removeprefix(f"{layer}.")
        kept.setdefault((layer, use), {})[own] = math.prod(parameter.shape)
    uses = Counter(layer for layer, _ in kept)
    for (layer, use), sizes in kept.items():
        names = tuple(sizes) if uses[layer] > 1 or layer == OUTPUT else ()
        yield KeptParameters(layer, use, sum(sizes.values()), names)


def _use(parameter: ParameterRecord, *, seen: bool) -> Use:
    """What becomes of a parameter; a gradient of zeros is one: it has arrived."""
    if parameter.state in ("none", "frozen"):
        return "none" if parameter.state == "none" else "frozen"
    return "gradient" if seen else "inside"


def _ratio(path: GradientPath) -> float:
    return path.arrival if path.finite else math.nan


def _decades(norm: float) -> float:
    if norm == 0:
        return -math.inf
    if norm < 0:  # in a report that somebody has changed
        return math.nan
    return _rounded(math.log10(norm)) if math.isfinite(norm) else norm


def _rounded(value: float) -> float:
    return round(value, DECIMALS) + 0.0 if math.isfinite(value) else value

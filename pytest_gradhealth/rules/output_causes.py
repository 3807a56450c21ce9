"""What makes outputs large (GH203): what comes in, weights, loops, and functions between layers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pytest_gradhealth.formatting import count, factor, listing, number
from pytest_gradhealth.results.path import GradientPath, PathPoint
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules.beside import calls_between
from pytest_gradhealth.rules.path_causes import initialisation
from pytest_gradhealth.rules.rule import Cause

#: What to try where a function between two layers makes most of the size.
_MEAN = "a mean in place of the sum"
_FUNCTIONS = {
    "Sum": _MEAN,
    "Cumsum": _MEAN,
    "Exp": "F.softplus in its place, or x.clamp(max=5).exp()",
    "Pow": "a lower power, or a normalisation layer before it",
    "Div": "look at what it divides by, which may be close to 0",
}
#: By this factor targets are far from what comes out.
_FAR = 100.0
STANDARDISED_TARGETS = "standardise them: y = (y - y.mean(0)) / (y.std(0) + 1e-6)"
#: Calls of one layer, one behind the other, that are a loop.
_LOOP = 3


@dataclass(frozen=True)
class _Share:
    """The decades that outputs owe to one thing, what that is, and what to try."""

    decades: float
    because: str
    advice: str


def cause_of_size(profile: GradientProfile) -> Cause | None:
    """What makes most of the size of the outputs, None without a path to tell from."""
    paths = [path for path in profile.judged_paths if _is_measured(path)]
    if not paths:
        return None
    path = max(paths, key=lambda path: path.links)
    shares = [_of_first(path, profile), *_of_steps(path, profile), *_of_loops(path)]
    worst = max(shares, key=lambda share: share.decades)
    if 2 * worst.decades < math.log10(_size(path.last)):
        worst = _of_all(path, profile)
    return Cause(worst.because, worst.advice)


def far_targets(profile: GradientProfile) -> str:
    """That the targets are far larger than what comes out, "" where they are not."""
    wanted, size = profile.wanted, profile.magnitude
    if wanted is None or size is None or not wanted > _FAR or not size < 1 / _FAR:
        return ""
    return (
        f"the targets have a root mean square of {number(wanted)}, and the outputs x{number(size)}"
        " of that"
    )


def _is_measured(path: GradientPath) -> bool:
    return all(0 < point.activation < math.inf for point in path.points)


def _size(point: PathPoint) -> float:
    """The RMS of what a layer returns."""
    return point.activation / math.sqrt(point.numel)


def _gained(points: Sequence[PathPoint]) -> float:
    return math.log10(_size(points[-1]) / _size(points[0]))


def _picks(point: PathPoint) -> bool:
    """Whether a layer returns rows of its weights, whatever the size of what comes in."""
    return point.leaf.startswith("Embedding")


def _gain(point: PathPoint, profile: GradientProfile, kind: str = "weight") -> float | None:
    """By how much weights of a layer multiply the RMS of what comes in, None where it has none.

    Of rows that are picked it is theirs.
    """
    start = f"{point.name}.{kind}"
    for p in profile.parameters:
        names = p.name, *p.other_names
        if p.norm and len(p.shape) > 1 and any(name.startswith(start) for name in names):
            return p.norm / math.sqrt(math.prod(p.shape) if _picks(point) else p.shape[0])
    return None


def _of_weights(point: PathPoint, gain: float, path: GradientPath) -> _Share:
    because, advice = f"multiply what comes in by {number(gain)}", initialisation(path)
    if _picks(point):
        because, advice = f"have an RMS of {number(gain)}", "nn.init.normal_(layer.weight)"
    because = f"the weights of {point.title} are large: they {because}"
    return _Share(math.log10(gain), because, f"{advice} for it")


def _of_first(path: GradientPath, profile: GradientProfile) -> _Share:
    """What comes in, what the first layer makes of it, or what it owes to its own loop."""
    first, size = path.first, _size(path.first)
    again, gain = _gain(first, profile, "weight_hh"), _gain(first, profile)
    if again is not None:
        return _Share(
            math.log10(size),
            f"{first.title} returns an RMS of {number(size)}: its recurrent weights multiply what"
            f" it has made by {number(again)} in each step",
            "nn.init.orthogonal_ for its weight_hh, or standardised inputs",
        )
    if gain is None:
        because = f"{first.title} is the first to be so large: it returns an RMS of {number(size)}"
        return _Share(math.log10(size), because, "look at what it is made of, and at its weights")
    if _picks(first) or gain * gain > size:
        return _of_weights(first, gain, path)
    is_first = profile.outputs[:1] and profile.outputs[0].name == first.name
    return _Share(
        math.log10(size / gain),
        f"what {first.title} gets is large already: its RMS is about {number(size / gain)}",
        "standardised inputs: x = (x - x.mean(0)) / (x.std(0) + 1e-6)"
        if is_first
        else f"a normalisation layer before {first.label}",
    )


def _of_steps(path: GradientPath, profile: GradientProfile) -> Iterator[_Share]:
    """What layers owe to their weights, or to what is done before them to what others return."""
    for place, (far, near) in enumerate(pairwise(path.points)):
        gained, gain = _gained((far, near)), _gain(near, profile)
        if gain is not None and 2 * math.log10(gain) > gained:
            yield _of_weights(near, gain, path)
            continue
        calls = calls_between(path, place, profile)
        if called := [name for name, n in Counter(o.name for o in calls).items() if n >= _LOOP]:
            names = listing(called, 4)
            yield _Share(
                gained,
                f"it grows {factor(gained)} from {far.title} to {near.title}, through"
                f" {count(len(calls), 'call')} of {names}, one behind the other",
                f"smaller initial weights in {names} (a tenth, say), or a normalisation"
                " layer before each call",
            )
            continue
        known = [op for op in far.ops if op in _FUNCTIONS]
        advice = (
            f"look at what multiplies the output of {far.label}, or a normalisation layer there"
        )
        yield _Share(
            gained,
            f"it grows {factor(gained)} from {far.title} to {near.title}"
            + (f", through {known[0].lower()}" if known else ""),
            _FUNCTIONS[known[0]] if known else advice,
        )


def _of_loops(path: GradientPath) -> Iterator[_Share]:
    """What the calls of a layer add that gets what it has returned."""
    for name in dict.fromkeys(point.name for point in path.points):
        points = [point for point in path.points if point.name == name]
        if len(points) >= _LOOP:
            gained = _gained(points)
            each = factor(gained / (len(points) - 1))
            yield _Share(
                gained,
                f"it grows {each} in each of {count(len(points), 'call')} of {name}, one behind the"
                " other",
                f"nn.init.orthogonal_({name}.weight), or a normalisation layer in the loop",
            )


def _of_all(path: GradientPath, profile: GradientProfile) -> _Share:
    """What is in no one place."""
    gained, links = _gained(path.points), max(1, path.links)
    because = (
        f"it grows {factor(gained / links)} in each of {count(links, 'step')} from"
        f" {path.first.title} to {path.last.title}"
    )
    gains = [math.log10(gain) for point in path.points if (gain := _gain(point, profile))]
    if 2 * sum(gains) > gained:
        each = number(10 ** (sum(gains) / len(gains)))
        because += f": the weights are large and multiply what comes in by {each} each"
        return _Share(gained, because, initialisation(path))
    advice = "a normalisation layer every few layers, or a smaller share of what each adds"
    return _Share(gained, because, advice)

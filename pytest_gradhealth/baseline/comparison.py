"""What has changed between two measurements of a model, in decades, and whether that is worse."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_gradhealth.baseline.alignment import Pair, aligned, path_pairs
from pytest_gradhealth.baseline.entry import Entry, KeptPath
from pytest_gradhealth.formatting import factor, number
from pytest_gradhealth.results.diagnosis import VERDICTS, Limit

ChangeKind = Literal["verdict", "path", "step", "output", "lost", "gone", "new"]


@dataclass(frozen=True)
class Change:
    """One thing that is not as it was: `worse` where that fails a test, `better`, or neither.

    `layer` is the first layer of the path, or where the step is; `before` and `after` are decades.
    """

    kind: ChangeKind
    worse: bool
    layer: str
    message: str
    before: float = math.nan
    after: float = math.nan
    better: bool = False


@dataclass(frozen=True)
class PathComparison:
    """Two paths side by side; `pairs` has a place in each for every layer."""

    before: KeptPath
    after: KeptPath
    pairs: tuple[Pair, ...]

    def __post_init__(self) -> None:
        for pair in self.pairs:
            if pair.before is pair.after is None:
                raise ValueError("a pair of layers has none")
            for place, path in ((pair.before, self.before), (pair.after, self.after)):
                if place is not None and place >= len(path.points):
                    raise ValueError(f"a path has no layer {place}")

    def ratios(self) -> tuple[float, float]:
        """First layer over last, before and after, in decades.

        Where the last layers are of other types, one of them may be a part of the loss: then it is
        to the last layer that both have.
        """
        if self.before.points[-1].type == self.after.points[-1].type:
            return self.before.ratio, self.after.ratio
        both = [p for p in self.pairs if p.before is not None and p.after is not None]
        if not both:
            return self.before.ratio, self.after.ratio
        return _ratio_to(self.before, both[-1].before), _ratio_to(self.after, both[-1].after)

    def steps(self) -> Iterator[tuple[Pair, Pair, float, float]]:
        """The decades from each layer that both have to the next one: far, near, before and after.

        Layers that only one of them has lie in between, and count with the step.
        """
        both = [p for p in self.pairs if p.before is not None and p.after is not None]
        for far, near in itertools.pairwise(both):
            yield (
                far,
                near,
                _gain(self.before, far.before, near.before),
                _gain(self.after, far.after, near.after),
            )

    def is_same(self, far: Pair, near: Pair) -> bool:
        """Whether a step is between layers of the same types, with none that is new or gone."""
        old, new = (
            [point.type for point in path.points[first : (last or 0) + 1]]
            for path, first, last in (
                (self.before, far.before, near.before),
                (self.after, far.after, near.after),
            )
        )
        return old == new


@dataclass(frozen=True)
class Comparison:
    """All that has changed, worst first, and the paths it was read from."""

    changes: tuple[Change, ...] = ()
    paths: tuple[PathComparison, ...] = ()

    @property
    def worse(self) -> tuple[Change, ...]:
        """The changes that fail a test."""
        return tuple(change for change in self.changes if change.worse)

    @property
    def better(self) -> tuple[Change, ...]:
        """The changes for the better; a warning or a path that is new is neither."""
        return tuple(change for change in self.changes if change.better)


#: The layers of a model: name and type.
Layers = Collection[tuple[str, str]]


def compare(
    before: Entry, after: Entry, max_path: Limit, max_step: Limit, layers: Layers | None = None
) -> Comparison:
    """Compare what was measured with a baseline.

    Worse is a path ratio that is farther from 1 by more than `max_path` decades, a step from layer
    to layer by more than `max_step`, large outputs that have grown by more than that, a first layer
    that is still there (one of `layers`, those of the model) and gets no gradient any more, or a
    verdict that has become "failure" or "not judged". As much in the other direction is better, and
    reported.

    Ratios are taken from the last layer that both have where they end in other types of layers,
    since what is behind it may as well be a part of the loss; steps where both have the same types
    of layers and nothing in between.
    """
    changes: list[Change] = []
    paths: list[PathComparison] = []
    if before.verdict != after.verdict:
        changes.append(_verdict(before, after))
    changes += _output_changes(before.output, after.output, max_step)
    for old, new in path_pairs(before.paths, after.paths):
        if old is not None and _is_lost(old, new, after, layers):
            changes.append(_lost(old))
            new = None
        elif old is None or new is None:
            changes.append(_gone_or_new(old, new))
        if old is None or new is None:
            continue
        path = PathComparison(old, new, tuple(aligned(old.points, new.points)))
        paths.append(path)
        changes += _path_changes(path, max_path)
        changes += _step_changes(path, max_step)
    changes.sort(key=lambda change: (not change.worse, -_size(change)))
    return Comparison(tuple(changes), tuple(paths))


def is_same(before: Entry, after: Entry) -> bool:
    """Whether a new entry says nothing that the old one does not, but for noise and environment."""
    if before.verdict != after.verdict or len(before.paths) != len(after.paths):
        return False
    if not _near(_output(before), _output(after)):
        return False
    return all(
        [(p.layer, p.type) for p in old.points] == [(p.layer, p.type) for p in new.points]
        and _near(old.ratio, new.ratio)
        and all(_near(a.norm, b.norm) for a, b in zip(old.points, new.points, strict=True))
        for old, new in zip(before.paths, after.paths, strict=True)
    )


def _output(entry: Entry) -> float:
    return math.nan if entry.output is None else entry.output


#: Decades that a norm may move without a baseline being written anew.
_NOISE = 0.05


def _near(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other)) or abs(one - other) <= _NOISE


def _verdict(before: Entry, after: Entry) -> Change:
    was, now = (
        f"a {verdict}" if verdict in ("warning", "failure") else verdict
        for verdict in (before.verdict, after.verdict)
    )
    worse = after.verdict in ("failure", "not judged")
    better = not worse and VERDICTS.index(after.verdict) > VERDICTS.index(before.verdict)
    message = f"the verdict was {was} and is {now}"
    return Change("verdict", worse, "", message, better=better)


def _is_lost(old: KeptPath, new: KeptPath | None, after: Entry, layers: Layers | None) -> bool:
    """Whether the first layer of a path is on none any more, though the model still has it."""
    first = old.first
    there = new is None if layers is None else (first.layer, first.type) in layers
    return there and not any(
        first.layer == point.layer for path in after.paths for point in path.points
    )


def _lost(old: KeptPath) -> Change:
    message = f"no gradient reaches {old.first.title} any more: is it frozen, or cut off?"
    return Change("lost", True, old.first.layer, message, old.ratio)


def _gone_or_new(old: KeptPath | None, new: KeptPath | None) -> Change:
    if new is None and old is not None:
        message = f"the gradient path that starts at {old.first.title} is gone with that layer"
        return Change("gone", False, old.first.layer, message, old.ratio)
    assert new is not None
    message = f"a gradient path starts at {new.first.title}, which is new"
    return Change("new", False, new.first.layer, message, after=new.ratio)


def _output_changes(before: float | None, after: float | None, limit: Limit) -> Iterator[Change]:
    """Outputs that have grown large: what makes them so makes every gradient large or flat.

    From an RMS of 1, below which outputs (those of a head that starts at zero) may grow at will.
    """
    if before is None or after is None or not after - max(before, 0.0) > limit.value:
        return
    message = (
        f"the model's outputs have grown by {factor(after - before)}, to an RMS of"
        f" {number(10.0**after if after < 300 else math.inf)}"
        f" (limit {number(limit.value)} decades, {limit.source})"
    )
    yield Change("output", True, "", message, before, after)


def _path_changes(path: PathComparison, limit: Limit) -> Iterator[Change]:
    old, new = path.before, path.after
    was, now = path.ratios()
    grown = _distance(now) - _distance(was)
    if not abs(grown) > limit.value:
        return
    first = new.first.title
    if old.first.layer != new.first.layer:
        first += f", {old.first.title} in the baseline"
    message = (
        f"{factor(now)} of the gradient reaches {first}; it was {factor(was)}{_by(grown, limit)}"
    )
    yield Change("path", grown > 0, new.first.layer, message, was, now, grown < 0)


def _step_changes(path: PathComparison, limit: Limit) -> Iterator[Change]:
    for far, near, was, now in path.steps():
        grown = _distance(now) - _distance(was)
        if not abs(grown) > limit.value or not path.is_same(far, near):
            continue
        assert far.after is not None
        assert near.after is not None
        layer, source = path.after.points[far.after], path.after.points[near.after]
        message = (
            f"from {source.title} to {layer.title} the gradient changes by {factor(now)};"
            f" it was {factor(was)}{_by(grown, limit)}"
        )
        yield Change("step", grown > 0, layer.layer, message, was, now, grown < 0)


def _by(grown: float, limit: Limit) -> str:
    if grown < 0:
        return f" ({number(-grown)} decades better)"
    return f" ({number(grown)} decades worse; limit {number(limit.value)}, {limit.source})"


def _gain(path: KeptPath, far: int | None, near: int | None) -> float:
    """Decades from one point of a path towards the first layer; none between two zeros."""
    assert far is not None
    assert near is not None
    here, there = path.points[far].norm, path.points[near].norm
    return 0.0 if here == there else here - there


def _ratio_to(path: KeptPath, place: int | None) -> float:
    """The ratio of a path if it ended at one of its points."""
    assert place is not None
    more = path.points[place].norm - path.points[-1].norm
    return path.ratio - more if math.isfinite(more) else path.ratio


def _distance(ratio: float) -> float:
    """How far a ratio is from level, in decades; not a number counts as infinitely far."""
    return math.inf if math.isnan(ratio) else abs(ratio)


def _size(change: Change) -> float:
    if change.kind in ("verdict", "lost"):
        return math.inf
    size = abs(_distance(change.after) - _distance(change.before))
    return 0.0 if math.isnan(size) else size


def most_changed(path: PathComparison) -> Sequence[Pair]:
    """The pairs of layers between which the step has changed most: the far one, the near one."""
    steps = list(path.steps())
    if not steps:
        return ()
    far, near, *_ = max(steps, key=lambda step: _change(step[2], step[3]))
    return far, near


def _change(was: float, now: float) -> float:
    grown = abs(now - was)
    return math.inf if math.isnan(grown) else grown

"""What has changed between two measurements of a model, in decades, and whether that is worse."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from pytest_gradhealth.baseline.alignment import Pair, aligned, path_pairs
from pytest_gradhealth.baseline.change import Change, ChangeKind, effect, moved, movement
from pytest_gradhealth.baseline.connections import connection_changes
from pytest_gradhealth.baseline.entry import Entry, KeptPath
from pytest_gradhealth.baseline.layers import layer_changes
from pytest_gradhealth.baseline.model import Model
from pytest_gradhealth.baseline.rerouting import rerouted
from pytest_gradhealth.formatting import count, factor, number, portion
from pytest_gradhealth.results.diagnosis import VERDICTS, Limit


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

    @property
    def has_same_layers(self) -> bool:
        """Whether no layer is new or gone on the path."""
        return all(p.before is not None and p.after is not None for p in self.pairs)

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


def compare(before: Entry, after: Entry, max_path: Limit, max_step: Limit) -> Comparison:
    """Compare what was measured with a baseline.

    Worse is a path ratio that has moved by more than `max_path` decades away from 1, or past it, a
    step from layer to layer that has by more than `max_step`, large outputs that have grown by more
    than that, a verdict that has become "failure" or "not judged", and layers that get gradient or
    lie on the paths where others did. As much towards 1 is better, and reported, on a path of the
    same layers.

    Ratios are taken from the last layer that both have where they end in other types of layers,
    since what is behind it may as well be a part of the loss; steps where both have the same types
    of layers and nothing in between. Only paths that neither side has found to be without data have
    their numbers compared, and none where one side was judged in training mode alone.
    """
    changes: list[Change] = []
    paths: list[PathComparison] = []
    if before.verdict != after.verdict:
        changes.append(_verdict(before, after))
    alike = before.training == after.training
    if alike:
        changes += _output_changes(before.output, after.output, max_step)
    else:
        changes.append(_mode(after))
    now = Model(after)
    silent = [path for path in before.paths if now.trains(path.first.module) is False]
    if before.parameters is None:
        changes += map(_lost, silent)
    both = [
        (old, new)
        for old, new in path_pairs(before.paths, after.paths)
        if old is not None and new is not None and old not in silent
    ]
    repeated: dict[str, Change] = {}
    for old, new in both:
        if old.judged and new.judged and alike:
            path = PathComparison(old, new, tuple(aligned(old.points, new.points)))
            paths.append(path)
            others = {change.layer: change for change in _calls(path, Model(before), now)}
            repeated |= others
            changes += [] if others else _path_changes(path, max_path)
            changes += _step_changes(path, max_step, others)
    changes += [*repeated.values(), *_layers_changed(before, after, both)]
    changes.sort(key=lambda change: (not change.worse, -_size(change)))
    return Comparison(tuple(changes), tuple(paths))


def _layers_changed(
    before: Entry, after: Entry, paths: Sequence[tuple[KeptPath, KeptPath]]
) -> Iterator[Change]:
    """Compare layers, and how they are connected: by paths where a file is too old to know."""
    on_paths = {point.module for path in after.paths for point in path.points}
    changes = [*layer_changes(before, after, on_paths)]
    yield from changes
    if before.flow is not None and after.flow is not None:
        if before.training == after.training:
            yield from connection_changes(before, after)
    elif not any(change.worse for change in changes):
        # Else the way of the gradient is another for that reason.
        yield from rerouted(before, after, paths)


def is_same(before: Entry, after: Entry) -> bool:
    """Whether a new entry says nothing that the old one does not, but for noise and environment."""
    if before.verdict != after.verdict or len(before.paths) != len(after.paths):
        return False
    if (before.parameters, before.flow) != (after.parameters, after.flow):
        return False
    if (before.numbers, before.weights) != (after.numbers, after.weights):
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


def _mode(after: Entry) -> Change:
    now, then = (
        ("now", "the baseline was not") if after.training else ("in the baseline", "not now")
    )
    message = f"judged in training mode {now}, {then}: no numbers are compared"
    return Change("mode", False, "", message)


def _lost(old: KeptPath) -> Change:
    message = f"no gradient reaches {old.first.title} any more: is it frozen, or cut off?"
    return Change("lost", True, old.first.layer, message, old.ratio)


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
    first = new.first.title
    if old.first.layer != new.first.layer:
        first += f", {old.first.title} in the baseline"
    text = f"{portion(now, 'the gradient')} reaches {first}"
    yield from _moved("path", path, new.first.layer, text, was, now, limit)


def _calls(path: PathComparison, then: Model, now: Model) -> Iterator[Change]:
    """Modules on a path that are called another number of times: a loop of other length."""
    was, here = (Counter(point.module for point in p.points) for p in (path.before, path.after))
    for module in was.keys() & here.keys():
        counts = (was[module], here[module])
        if then.is_called_as_in(now, module):
            if counts[0] == counts[1]:
                continue
        elif max(counts) == 1:
            counts = then.calls[module], now.calls[module]
        message = (
            f"{module} is called {count(counts[1], 'time')}, and was {count(counts[0], 'time')} in"
            " the baseline: nothing is compared that its number of steps makes"
        )
        yield Change("calls", False, module, message)


def _step_changes(path: PathComparison, limit: Limit, others: Collection[str]) -> Iterator[Change]:
    """Compare the steps, but for those at modules that are called another number of times."""
    for far, near, was, now in path.steps():
        if path.is_same(far, near):
            assert far.after is not None
            assert near.after is not None
            layer, source = path.after.points[far.after], path.after.points[near.after]
            if layer.module in others or source.module in others:
                continue
            text = f"from {source.title} to {layer.title} the gradient changes by {factor(now)}"
            yield from _moved("step", path, layer.layer, text, was, now, limit)


def _moved(
    kind: ChangeKind,
    path: PathComparison,
    layer: str,
    text: str,
    was: float,
    now: float,
    limit: Limit,
) -> Iterator[Change]:
    """What has become of a ratio on a path; one that other layers have made is not better."""
    if abs(moved(was, now)) > limit.value:
        message = f"{text}; it was {factor(was)} ({movement(was, now, limit)})"
        is_now = effect(was, now, limit.value)
        better = is_now == "better" and path.has_same_layers
        yield Change(kind, is_now == "worse", layer, message, was, now, better)


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


def _size(change: Change) -> float:
    return abs(moved(change.before, change.after)) if change.is_number else math.inf


def most_changed(path: PathComparison) -> Sequence[Pair]:
    """The pairs of layers between which the step has changed most: the far one, the near one."""
    steps = list(path.steps())
    if not steps:
        return ()
    far, near, *_ = max(steps, key=lambda step: abs(moved(step[2], step[3])))
    return far, near

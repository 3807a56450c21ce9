"""The tables of a message: a gradient path, training steps, penalties."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pytest_gradhealth.formatting import (
    MOST_ROWS,
    WIDTH,
    bar,
    columns,
    factor,
    log_scale,
    number,
    shortened,
)
from pytest_gradhealth.results.diagnosis import Finding
from pytest_gradhealth.results.path import GradientPath, decades, l2_decades
from pytest_gradhealth.results.profile import GradientProfile, ParameterRecord, TimeRecord, Update


def path_table(
    path: GradientPath,
    findings: Sequence[Finding] = (),
    *,
    verbose: bool = False,
    width: int = WIDTH,
) -> tuple[str, int]:
    """Return the path as a table, first layer on top, and the number of points left out.

    A step is the factor on the way up from the row below; the bar is on a log scale; ">" marks
    where the first of `findings` is.
    """
    found = _found_at(path, findings)
    largest = path.largest_step(down=-path.vanishing > path.exploding) or 0
    total = len(path.points)
    shown = range(total) if verbose else _around(largest if found is None else found, total)
    listed = _with_gaps(shown)
    rows = [
        _gap(path, item) if isinstance(item, range) else _row(path, item, item == found)
        for item in listed
    ]
    names = ["", "layer", "type", "output", "norm", "step"]
    # tabulate pads a header by two, and columns by two more.
    taken = sum(
        max(len(name) + 2 * bool(name), *(len(row[i]) for row in rows)) + 2
        for i, name in enumerate(names)
    )
    longest = max(4, min(24, width - taken))
    scale = log_scale(point.norm for point in path.points)
    for row, item in zip(rows, listed, strict=True):
        row.append("" if isinstance(item, range) else bar(path.points[item].norm, scale, longest))
    return columns(rows, [*names, ""], "llllrrl"), total - len(shown)


def _found_at(path: GradientPath, findings: Sequence[Finding]) -> int | None:
    """The row of the first finding that is on the path, None if none is."""
    labels = {point.label: index for index, point in enumerate(path.points)}
    return next((labels[f.layer] for f in findings if f.layer in labels), None)


def _around(focus: int, total: int) -> Sequence[int]:
    if total <= MOST_ROWS:
        return range(total)
    near = range(max(0, focus - 3), min(total, focus + 4))
    return sorted({0, 1, *near, total - 2, total - 1})


def _with_gaps(shown: Sequence[int]) -> list[int | range]:
    """The rows to list: indices, and ranges of those left out."""
    listed: list[int | range] = []
    following = 0
    for index in shown:
        if index > following:
            listed.append(range(following, index))
        listed.append(index)
        following = index + 1
    return listed


def _row(path: GradientPath, index: int, marked: bool) -> list[str]:
    point = path.points[index]
    step = factor(path.steps[index]) if index < path.links else ""
    shape = "x".join(map(str, point.shape)) or "number"
    name, kind = shortened(point.label, 22), shortened(point.type, 16)
    return [">" if marked else "", name, kind, shortened(shape, 14), number(point.norm), step]


def _gap(path: GradientPath, hidden: range) -> list[str]:
    change = factor(l2_decades(path.points[hidden.start], path.points[hidden.stop]))
    return ["", "...", f"{len(hidden)} more", "", "", change]


def times_table(record: TimeRecord, width: int = WIDTH) -> str:
    """Return what gets how far back in time, the last step on top; ">" marks the dependency."""
    last = len(record.norms) - 1
    steps = {round(i * last / (MOST_ROWS - 2)) for i in range(MOST_ROWS - 1)}
    shown = sorted(steps | {record.dependency})
    largest = max(record.norms)
    scale = log_scale(record.norms[distance] for distance in shown)
    rows = [
        [
            ">" if distance == record.dependency else "",
            str(distance),
            number(record.norms[distance]),
            factor(decades(record.norms[distance], largest)),
            bar(record.norms[distance], scale, min(24, width - 40)),
        ]
        for distance in shown
    ]
    names = ["", "steps back", "norm", "share", ""]
    return columns(rows, names, "lrrrl")


def underflow_table(profile: GradientProfile, *, verbose: bool) -> str:
    """Return the layers with what a number format makes of their gradient, the worst first."""
    kind, shift = profile.loss_scale.format, profile.loss_scale.exponent
    records = [record for record in profile.magnitudes if record.counts]
    records.sort(key=lambda record: (-record.flushed(kind, shift), -record.high))
    shown = records if verbose else records[:MOST_ROWS]
    rows = [
        [
            shortened(record.name, 30),
            shortened(record.type, 16),
            f"2^{record.low} .. 2^{record.high}",
            f"{record.flushed(kind, shift):.0%}",
            f"{record.lost(kind, shift):.0%}",
        ]
        for record in shown
    ]
    if len(shown) < len(records):
        rows.append([f"... {len(records) - len(shown)} more", "", "", "", ""])
    names = ["gradient of", "type", "from .. to", "flushed", "of norm"]
    return columns(rows, names, "llrrr")


def updates_table(updates: Sequence[Update]) -> str:
    """Return the training steps as a table, the gradient norm before and after clipping."""
    rows = [
        [
            str(update.step),
            number(update.loss),
            number(update.gradient),
            number(update.clipped) if update.clipped != update.gradient else "",
            f"x{number(update.change)}",
            shortened(update.layer, 22),
        ]
        for update in updates
    ]
    names = ["step", "loss", "gradient norm", "after clipping", "change", "of layer"]
    return columns(rows, names, "rrrrrl")


def penalties_table(
    profile: GradientProfile, drowned: Collection[ParameterRecord], *, verbose: bool
) -> str:
    """Return the weights with the gradients of penalty and loss, the most drowned first.

    ">" marks those in `drowned`.
    """
    weights = [p for p in profile.parameters if p.penalty and p.gradient is not None]
    weights = sorted((p for p in weights if len(p.shape) > 1), key=lambda p: -decades(*_pair(p)))
    shown = weights if verbose else weights[:MOST_ROWS]
    rows = [
        [
            ">" if p in drowned else "",
            shortened(p.name, 30),
            *map(number, _pair(p)),
            factor(decades(*_pair(p))),
        ]
        for p in shown
    ]
    if len(shown) < len(weights):
        rows.append(["", f"... {len(weights) - len(shown)} more", "", "", ""])
    names = ["", "weight", "penalty gradient", "loss gradient", "ratio"]
    return columns(rows, names, "llrrr")


def _pair(parameter: ParameterRecord) -> tuple[float, float]:
    return parameter.penalty or 0.0, parameter.gradient or 0.0


#: What the value of a rule is, and how it is written, where that is not a ratio of gradients.
COMPARED = {
    "GH202": ("change", "x{}"),
    "GH203": ("output", "{}"),
    "GH402": ("dead", "{}"),
    "GH403": ("saturated", "{}"),
    "GH404": ("spread", "x{}"),
}

"""A gradient path as a table."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_gradhealth.formatting import (
    MOST_ROWS,
    View,
    bar,
    columns,
    factor,
    log_scale,
    number,
    shortened,
)
from pytest_gradhealth.results.diagnosis import Finding
from pytest_gradhealth.results.path import GradientPath, l2_decades


def path_table(
    path: GradientPath, findings: Sequence[Finding] = (), view: View | None = None
) -> tuple[str, int]:
    """Return the path as a table, first layer on top, and the number of points left out.

    A step is the factor on the way up from the row below; the bar is on a log scale; ">" marks
    where the first of `findings` is.
    """
    view = view or View()
    found = _found_at(path, findings)
    largest = path.largest_step(down=-path.vanishing > path.exploding) or 0
    focus = (*found, largest)[0]
    listed = listed_rows(focus, len(path.points), verbose=view.verbose)
    rows = [
        _gap(path, item) if isinstance(item, range) else _row(path, item, item in found)
        for item in listed
    ]
    names = ["", "layer", "type", "output", "norm", "step"]
    # tabulate pads a header by two, and columns by two more.
    taken = sum(
        max(len(name) + 2 * bool(name), *(len(row[i]) for row in rows)) + 2
        for i, name in enumerate(names)
    )
    longest = max(4, min(24, view.width - taken))
    scale = log_scale(point.norm for point in path.points)
    for row, item in zip(rows, listed, strict=True):
        row.append("" if isinstance(item, range) else bar(path.points[item].norm, scale, longest))
    hidden = sum(len(item) for item in listed if isinstance(item, range))
    return columns(rows, [*names, ""], "llllrrl"), hidden


def _found_at(path: GradientPath, findings: Sequence[Finding]) -> list[int]:
    """The rows of the first finding that is on the path, its worst layer first."""
    labels = {point.label: index for index, point in enumerate(path.points)}
    found = next((f.layers for f in findings if f.layer in labels), ())
    return [labels[layer] for layer in found if layer in labels]


def listed_rows(focus: int, total: int, *, verbose: bool) -> list[int | range]:
    """The rows of a table that are listed, at its ends and near one: indices, ranges left out."""
    near = range(max(0, focus - 3), min(total, focus + 4))
    some = {0, 1, *near, total - 2, total - 1}
    listed: list[int | range] = []
    following = 0
    for index in range(total) if verbose or total <= MOST_ROWS else sorted(some):
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

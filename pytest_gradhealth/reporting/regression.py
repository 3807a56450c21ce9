"""The words of a check that fails: what was, what is, where, and what to type."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_gradhealth.baseline.alignment import Pair
from pytest_gradhealth.baseline.check import Check, unknown
from pytest_gradhealth.baseline.comparison import PathComparison, most_changed
from pytest_gradhealth.baseline.entry import KeptPath
from pytest_gradhealth.formatting import (
    View,
    coded,
    columns,
    count,
    factor,
    listing,
    printable,
    shortened,
)
from pytest_gradhealth.reporting.message import headline
from pytest_gradhealth.reporting.path_table import listed_rows
from pytest_gradhealth.results.diagnosis import Diagnosis

#: Changes that are spelled out, and characters of the key of a check.
MOST_CHANGES, LONGEST_KEY = 3, 200


def regression(
    check: Check, diagnosis: Diagnosis, view: View | None = None, *, compared: str = ""
) -> str:
    """Return the message for a model that is not what its baseline says.

    `compared` is the option that compares with the report of another run, if that is the baseline:
    no update of this one changes it.
    """
    view = view or View()
    changes = check.comparison.worse
    lines = [coded(change.message, change.fails) for change in changes[:MOST_CHANGES]]
    if len(changes) > MOST_CHANGES:
        lines.append(f"and {count(len(changes) - MOST_CHANGES, 'more change')}")
    if any(change.kind == "verdict" for change in changes):
        reasons = [f for f in diagnosis.findings if f.severity == diagnosis.verdict]
        lines[1:1] = [f"  {line}" for line in headline(diagnosis, reasons).splitlines()]
    blocks = ["\n".join(lines), _setting(check, diagnosis.model)]
    path = _worst(check)
    if path is not None and (not path.has_same_layers or not all(c.of_layers for c in changes)):
        blocks.append(comparison_table(path, verbose=view.verbose))
    blocks.append(_next(compared, view.rerun) if compared else _accept(check, view.rerun))
    return "\n\n".join(block for block in blocks if block)


def missing(check: Check, *, rerun: str) -> str:
    """Return the message for a check without a baseline, or without some of it."""
    lacking = [] if check.before is None else unknown(check.before, check.entry)
    numbers = f" of {listing(lacking)}" if lacking else ""
    return (
        f"no baseline{numbers} for {shortened(check.key, LONGEST_KEY)} in {printable(check.file)}\n"
        f"\nnext:   {printable(rerun)} --gradhealth-update\n"
        "        (writes it; commit the file)"
    )


def comparison_table(path: PathComparison, *, verbose: bool) -> str:
    """Two paths side by side, first layer on top; ">" marks the step that has changed most.

    The factors are those on the way up from the row below.
    """
    marked = most_changed(path)
    at = path.pairs.index(marked[0]) if marked else 0
    rows = [
        ["", f"... {len(item)} more", "", "", ""]
        if isinstance(item, range)
        else _row(path, path.pairs[item], marked)
        for item in listed_rows(at, len(path.pairs), verbose=verbose)
    ]
    names = ["", "layer", "", "step before", "step now"]
    return columns(rows, names, "lllrr")


def _row(path: PathComparison, pair: Pair, marked: Sequence[Pair]) -> list[str]:
    here = None if pair.after is None else path.after.points[pair.after]
    there = None if pair.before is None else path.before.points[pair.before]
    point = here or there
    assert point is not None
    note = ""
    if there is None:
        note = "new"
    elif here is None:
        note = "gone"
    elif here.layer != there.layer:
        note = f"was {shortened(there.layer, 18)}"
    elif here.type != there.type:
        note = f"was {shortened(there.type, 18)}"
    return [
        ">" if marked and pair == marked[0] else "",
        f"{shortened(point.layer, 24)} ({shortened(point.type, 18)})",
        note,
        "" if pair.before is None else _step(path.before, pair.before),
        "" if pair.after is None else _step(path.after, pair.after),
    ]


def _step(path: KeptPath, index: int) -> str:
    if index + 1 == len(path.points):
        return ""
    here, near = path.points[index].norm, path.points[index + 1].norm
    return factor(0.0 if here == near else here - near)


def _setting(check: Check, model: str) -> str:
    key, file = shortened(check.key, LONGEST_KEY), printable(check.file)
    line = f"{shortened(model, 40)} against {key} in {file}"
    before, now = (check.before or check.entry).environment, check.entry.environment
    other = [
        f"{name} {shortened(before[name], 40)} (now {shortened(now[name], 40)})"
        for name in now
        if name in before and before[name] != now[name]
    ]
    return line + (f"\nmeasured with {', '.join(other)}" if other else "")


def _worst(check: Check) -> PathComparison | None:
    for change in check.comparison.worse:
        for path in check.comparison.paths:
            layers = {point.layer for point in path.after.points}
            if change.layer in layers:
                return path
    return next(iter(check.comparison.paths), None)


def _accept(check: Check, rerun: str) -> str:
    if not rerun:
        return ""
    return (
        f"accept: {printable(rerun)} --gradhealth-update\n"
        f"        (if this is meant to be; commit the change of {printable(check.file)})"
    )


def _next(compared: str, rerun: str) -> str:
    if not rerun:
        return ""
    return f"next:   {printable(rerun)} {printable(compared)} -v\n        (shows all layers)"


def listed(keys: Sequence[str]) -> str:
    """The first few keys, and how many more there are."""
    return listing([shortened(key, 60) for key in keys])

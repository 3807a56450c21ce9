"""The terminal's report: one row per probe, then the profiles worth a look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pytest_gradhealth.formatting import (
    LONGEST_FINDING,
    View,
    coded,
    columns,
    count,
    factor,
    printable,
    shortened,
)
from pytest_gradhealth.reporting.message import advice, headline, setting_line
from pytest_gradhealth.reporting.path_table import path_table
from pytest_gradhealth.reporting.sparkline import sparkline
from pytest_gradhealth.reporting.summary import ratio, shown_verdict
from pytest_gradhealth.reporting.treatments import treatment_blocks
from pytest_gradhealth.results.diagnosis import RANK, Verdict, worst_path

if TYPE_CHECKING:
    from pytest_gradhealth.reporting.run import Probe

#: A line and how pytest's terminal writer should mark it up.
Line = tuple[str, dict[str, bool]]
#: Columns that are always shown, and those that are where there is room, in this order.
_NEEDED = ("verdict", "ratio", "layers")
_WELCOME = ("rate", "ms", "model", "profile", "device", "seeds")
_NUMBERS = frozenset({"ratio", "rate", "layers", "seeds", "ms"})
#: Characters of a test's name that are shown at least.
_LEAST = 24
_COLOUR = {"failure": "red", "warning": "yellow", "not judged": "cyan", "healthy": "green"}


def report_lines(
    entries: Sequence[Probe], *, width: int, verbose: bool, told: bool
) -> Iterator[Line]:
    """Yield the lines of the report: all probes in a table, and the profile of those that failed
    or warned (of all with `verbose`).

    Where it is `told` what tests have failed with, that is not told again.
    """
    if not entries:
        yield "no test probed a model", {}
        return
    yield from _overview(entries, width)
    yield "", {}
    yield "ratio: L2 norm of the gradient at the first layer over the last; rate: per step", {}
    yield _summary(entries), {}
    for entry in entries:
        again = told and entry.message and entry.outcome in ("failed", "error")
        if not again and (verbose or shown_verdict(entry) != "healthy"):
            yield from _profile(entry, View(verbose, min(width, 120)))


def _overview(entries: Sequence[Probe], width: int) -> Iterator[Line]:
    rows = [_row(entry) for entry in entries]
    least = min(_LEAST, max(len(printable(entry.test)) for entry in entries))
    names = _fitting(rows, width - least)
    room = max(least, width - sum(_taken(rows, name) for name in names))
    cells = [
        [*(row[name] for name in names), _tail(entry.test, room)]
        for row, entry in zip(rows, entries, strict=True)
    ]
    sides = "".join("r" if name in _NUMBERS else "l" for name in names)
    header, *lines = columns(cells, [*names, "test"], f"{sides}l").splitlines()
    yield header, {"bold": True}
    for line, entry in zip(lines, entries, strict=True):
        yield line, {_COLOUR[shown_verdict(entry)]: True}


def _fitting(rows: Sequence[Mapping[str, str]], width: int) -> list[str]:
    """The columns beside that of the tests: the needed ones, and what else there is room for."""
    chosen, taken = set(_NEEDED), sum(_taken(rows, name) for name in _NEEDED)
    for name in _WELCOME:
        taken += _taken(rows, name)
        if taken > width:
            break
        chosen.add(name)
    return [name for name in rows[0] if name in chosen]


def _taken(rows: Sequence[Mapping[str, str]], name: str) -> int:
    """Characters that tabulate gives a column: two around its header, and two before the next.

    Times of up to six digits take the same room, so that a rerun differs in nothing else.
    """
    return 2 + max(len(name) + 2, 6 * (name == "ms"), *(len(row[name]) for row in rows))


def _tail(text: str, most: int) -> str:
    text = printable(text)
    return text if len(text) <= most else ".." + text[2 - most :]


def _row(entry: Probe) -> dict[str, str]:
    diagnosis = entry.diagnosis
    path = diagnosis.judged_path
    return {
        "verdict": shown_verdict(entry),
        "ratio": ratio(entry),
        "rate": factor(path.arrival / path.links) if path is not None and path.links else "-",
        "profile": sparkline(path) or "-",
        "layers": str(len(path.points)) if path is not None else "0",
        "seeds": str(len(diagnosis.seeds)),
        "device": shortened(diagnosis.device, 16),
        "ms": f"{diagnosis.milliseconds:.0f}",
        "model": shortened(diagnosis.model, 16),
    }


def _summary(entries: Sequence[Probe]) -> str:
    verdicts = Counter(map(shown_verdict, entries))
    expected = sum(entry.expected and entry.diagnosis.verdict == "failure" for entry in entries)
    order: tuple[Verdict, ...] = ("failure", "warning", "healthy", "not judged")
    parts = [f"{verdicts[verdict]} {verdict}" for verdict in order if verdicts[verdict]]
    note = f" ({count(expected, 'failure')} expected by xfail)" if expected else ""
    return f"{count(len(entries), 'probe')}: {', '.join(parts)}{note}"


def _profile(entry: Probe, view: View) -> Iterator[Line]:
    diagnosis = entry.diagnosis
    findings = sorted(
        (f for f in diagnosis.findings if view.verbose or f.severity != "info"),
        key=lambda finding: RANK[finding.severity],
    )
    yield "", {}
    yield shortened(entry.test, LONGEST_FINDING), {"bold": True}
    shown = [f for f in findings if f.severity != "info"]
    for check in entry.checks:
        for change in check.failing:
            yield coded(change.message, change.fails), {"red": True}
    for line in headline(diagnosis, shown).splitlines():
        yield line, {_COLOUR[diagnosis.verdict]: True}
    for finding in findings[len(shown) :]:
        yield headline(diagnosis, [finding]), {}
    path = worst_path(diagnosis.profile, shown)
    if path is not None and diagnosis.verdict != "not judged":
        yield from ((line, {}) for line in setting_line(diagnosis, path, shown).splitlines())
        table, _ = path_table(path, shown, view)
        yield "", {}
        yield from ((line, {}) for line in table.splitlines())
    lines = [*advice(diagnosis, [f for f in shown if f.complains], view)]
    yield from ((line, {}) for line in ("", *"\n".join(lines).splitlines()) if lines)
    for block in treatment_blocks(diagnosis, view):
        yield "", {}
        yield from ((line, {}) for line in block.splitlines())

"""The text of a verdict: what was found, the gradient path as a table, the cause, what to type."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from pytest_gradhealth.causes import causes_of
from pytest_gradhealth.records import (
    Diagnosis,
    Finding,
    GradientPath,
    PathPoint,
    l2_decades,
    worst_path,
)
from pytest_gradhealth.wording import count, factor, number, printable

#: Columns of a failure message: 80, less what pytest puts before each line.
WIDTH = 76
#: Characters of a finding that are shown, however long the names in it.
LONGEST_LINE = 400
#: Rows of a path that are shown without -v.
MOST_ROWS = 12


def render(
    diagnosis: Diagnosis,
    findings: Sequence[Finding] | None = None,
    *,
    verbose: bool = False,
    rerun: str = "",
    width: int = WIDTH,
) -> str:
    """Return the message for some findings of a diagnosis (by default all but information).

    `rerun` is the command that shows all layers; `verbose` shows them at once.
    """
    if findings is None:
        findings = [finding for finding in diagnosis.findings if finding.severity != "info"]
    blocks = [headline(diagnosis, findings)]
    path = worst_path(diagnosis.profile, findings)
    hidden = 0
    if path is not None:
        table, hidden = path_table(path, findings, verbose=verbose, width=width)
        blocks += [setting_line(diagnosis, path), table]
    blocks.append(_advice(diagnosis, findings, path, hidden, rerun, width))
    return "\n\n".join(block for block in blocks if block)


def headline(diagnosis: Diagnosis, findings: Sequence[Finding]) -> str:
    """One line per finding, worst first; one line of good news without any."""
    if not findings:
        model, path = shortened(diagnosis.model, 40), diagnosis.worst_path
        if path is None or not path.links:
            return f"{model}: no gradient path of two points or more to judge"
        share = f"{factor(path.l2)} of the gradient reaches {path.first.title}"
        return shortened(f"{model} is healthy: {share}", LONGEST_LINE)
    return "\n".join(f"{shortened(f.message, LONGEST_LINE)} [{f.code}]" for f in findings)


def setting_line(diagnosis: Diagnosis, path: GradientPath) -> str:
    """Where and how it was measured, and what the second look said."""
    model, points = shortened(diagnosis.model, 40), count(len(path.points), "point")
    parts = [f"{model} on {diagnosis.device}, {points}"]
    seeds = diagnosis.seeds
    if len(seeds) > 1:
        parts.append(f"seed {diagnosis.decisive_seed} of {', '.join(map(str, seeds))}")
    else:
        parts.append(f"seed {seeds[0]}")
    line = ", ".join(parts)
    second = diagnosis.confirmation
    if second is not None:
        again = next((p for p in second.paths if p.first.label == path.first.label), None)
        steps = f"{count(second.steps, 'step')} of {diagnosis.optimizer}"
        if again is not None:
            line += f"\nlooked at again after {steps}: {factor(again.l2)}"
    return line


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
    from tabulate import tabulate

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
    scale = _scale(path.points)
    for row, item in zip(rows, listed, strict=True):
        row.append("" if isinstance(item, range) else _bar(path.points[item], scale, longest))
    table = tabulate(
        rows,
        headers=[*names, ""],
        tablefmt="plain",
        disable_numparse=True,
        colalign=("left", "left", "left", "left", "right", "right", "left"),
    )
    text = "\n".join(line.rstrip() for line in table.splitlines())
    return text, total - len(shown)


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


def shortened(text: str, most: int) -> str:
    """Shorten a long text in the middle and keep control characters out of the terminal."""
    text = printable(text)
    if len(text) <= most:
        return text
    head = (most - 2) // 3
    return f"{text[:head]}..{text[len(text) - (most - 2 - head) :]}"


def _scale(points: Sequence[PathPoint]) -> tuple[float, float]:
    logs = [math.log10(p.norm) for p in points if p.norm > 0 and math.isfinite(p.norm)]
    return (min(logs), max(logs)) if logs else (0.0, 0.0)


def _bar(point: PathPoint, scale: tuple[float, float], longest: int) -> str:
    if not point.norm > 0 or not math.isfinite(point.norm):
        return "" if point.norm == 0 else "!"
    low, high = scale
    share = 1.0 if high == low else (math.log10(point.norm) - low) / (high - low)
    return "#" * max(1, round(share * longest))


def _advice(
    diagnosis: Diagnosis,
    findings: Sequence[Finding],
    path: GradientPath | None,
    hidden: int,
    rerun: str,
    width: int,
) -> str:
    lines: list[str] = []
    for cause in causes_of(findings, diagnosis.profile):
        lines.append(_hanging("cause", cause.because, width))
        lines.append(_hanging("try", cause.advice, width))
    if hidden and rerun and path is not None:
        # On one line, however long, so that it can be copied.
        lines.append(f"next:   {printable(rerun)} -v")
        lines.append(f"        (shows all {len(path.points)} points)")
    limited = next((f for f in findings if f.limit is not None and f.severity == "failure"), None)
    if limited is not None and limited.value is not None:
        lines.append(_hanging("accept", _acceptance(limited), width))
    return "\n".join(lines)


def _acceptance(finding: Finding) -> str:
    """The setting that would let this value pass, for whoever knows better."""
    name = "min_ratio" if finding.code == "GH101" else "max_ratio"
    value = finding.value or 0.0
    if not value or math.isinf(value):
        return f"no {name} lets this pass; --gradhealth-ignore={finding.code} leaves the rule out"
    exponent = (
        math.floor(math.log10(value)) if name == "min_ratio" else math.ceil(math.log10(value))
    )
    return f"{name}=1e{exponent:+03d}, if this is meant to be".replace("+", "+")


def _hanging(label: str, text: str, width: int) -> str:
    return textwrap.fill(
        printable(text),
        width,
        initial_indent=f"{label + ':':8}",
        subsequent_indent=" " * 8,
        break_long_words=False,
        break_on_hyphens=False,
    )

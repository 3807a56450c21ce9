"""One measured figure, its target, and the table of all of them."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from tabulate import tabulate

from examples.benchmarks.timing import Spread


@dataclass(frozen=True)
class Row:
    """What was measured of what, None if that failed; with a target, its median may not be larger.

    `unit` is "x" for a ratio, "ms", "KiB", or "" for a count. `model` is what a figure was taken
    of, where it is taken of several.
    """

    figure: str
    of: str
    measured: Spread | None
    unit: str = "x"
    target: float | None = None
    model: str = ""

    @property
    def missed(self) -> bool:
        """Whether the median is over the target."""
        if self.target is None or self.measured is None:
            return False
        return not self.measured.median <= self.target

    @property
    def median(self) -> str:
        """What was measured, as text."""
        return "does not run" if self.measured is None else self.with_unit(self.measured.median)

    def with_unit(self, value: float) -> str:
        """A value of this row, as text."""
        return f"{_number(value)}{_UNITS[self.unit]}"

    @property
    def limit(self) -> str:
        """The target, as text."""
        return "" if self.target is None else f"<= {self.target:g}{_UNITS[self.unit]}"

    @property
    def outcome(self) -> str:
        """Whether the target was met, as text."""
        if self.target is None or self.measured is None:
            return ""
        return "missed" if self.missed else "met"


_UNITS = {"x": "x", "ms": " ms", "KiB": " KiB", "": ""}


def _number(value: float) -> str:
    """Three decimals near one, where ratios are close to each other."""
    size = abs(value)
    return f"{value:.3f}" if size < 2 else f"{value:.2f}" if size < 10 else f"{value:.0f}"


def table(rows: Sequence[Row]) -> str:
    """All rows with their spread, in columns of text."""
    headers = ("figure", "of", "median", "quartiles", "target", "")
    lines = []
    for row in rows:
        spread = row.measured
        quartiles = f"{_number(spread.low)} to {_number(spread.high)}" if spread else ""
        of = ", ".join(filter(None, (row.model, row.of)))
        lines.append((row.figure, of, row.median, quartiles, row.limit, row.outcome))
    return _columns(headers, lines)


def summary(rows: Sequence[Row]) -> str:
    """The medians, those of several models side by side; "!" marks a missed target."""
    models = list(dict.fromkeys(row.model for row in rows if row.model))
    figures = dict.fromkeys(row.figure for row in rows if row.model)
    lines = []
    for figure in figures:
        of = {row.model: row for row in rows if row.figure == figure}
        cells = [_marked(of[model]) if model in of else "" for model in models]
        targets = dict.fromkeys(row.limit for row in of.values() if row.limit)
        lines.append((figure, *cells, ", ".join(targets)))
    others = [(r.figure, r.of, _marked(r), r.limit) for r in rows if not r.model]
    parts = []
    if lines:
        parts.append(_columns(("", *models, "target"), lines))
    if others:
        parts.append(_columns(("", "of", "", "target"), others))
    return "\n\n".join(parts)


def _marked(row: Row) -> str:
    return f"{row.median} !" if row.missed else row.median


def _columns(headers: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return tabulate(lines, headers, tablefmt="simple", disable_numparse=True)


def environment() -> str:
    """What the figures depend on: versions, processor and threads."""
    names = ("torch", "torchvision", "transformers", "pytest")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    where = f"{torch.get_num_threads()} threads of {_processor()}"
    if torch.cuda.is_available():
        where += f", {torch.cuda.get_device_name()}"
    return f"Python {platform.python_version()}, {versions}; {where}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

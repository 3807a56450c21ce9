"""One measured figure, its target, and the table of all of them."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from tabulate import tabulate

from examples.benchmarks.pairs import Spread


@dataclass(frozen=True)
class Row:
    """What was measured of what, None if that failed; with a target, its median may not be larger.

    `unit` is "x" for a ratio, "ms", or "" for a count.
    """

    figure: str
    of: str
    measured: Spread | None
    unit: str = "x"
    target: float | None = None

    @property
    def missed(self) -> bool:
        """Whether the median is over the target."""
        if self.target is None or self.measured is None:
            return False
        return not self.measured.median <= self.target

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of the table, as texts."""
        spread, unit = self.measured, {"x": "x", "": ""}.get(self.unit, f" {self.unit}")
        if spread is None:
            return self.figure, self.of, "does not run", "", "", ""
        return (
            self.figure,
            self.of,
            f"{_number(spread.median)}{unit}",
            f"{_number(spread.low)} to {_number(spread.high)}",
            "" if self.target is None else f"<= {self.target:g}{unit}",
            "" if self.target is None else "missed" if self.missed else "met",
        )


def _number(value: float) -> str:
    """Three decimals near one, where ratios are close to each other."""
    size = abs(value)
    return f"{value:.3f}" if size < 2 else f"{value:.2f}" if size < 10 else f"{value:.0f}"


def table(rows: Sequence[Row]) -> str:
    """All rows in columns of text."""
    headers = ("figure", "of", "median", "quartiles", "target", "")
    return tabulate([row.cells for row in rows], headers, tablefmt="simple", disable_numparse=True)


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

"""The records of the study in tables of text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tabulate import tabulate

from examples.study.journal import Record

Records = Mapping[str, Record]


def markdown_table(rows: Iterable[Sequence[object]], *headers: str) -> str:
    """Rows as a table of Markdown."""
    return tabulate(list(rows), headers, tablefmt="github", disable_numparse=True)


def short(value: float | None) -> str:
    """Two digits of a number, nothing of none."""
    return "" if value is None else f"{value:.2g}"

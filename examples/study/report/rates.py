"""RATES.md: learning rates, the critical ones, and what came of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from examples.benchmarks.table import environment
from examples.study.corpus import recipe
from examples.study.report.text import Records, markdown_table, short
from examples.study.trainability import FAILED, LEARNED
from pytest_gradhealth.config.options import DEFAULTS

WRITTEN = Path(__file__).parents[1] / "RATES.md"
WARNED, FAILS = DEFAULTS["warn_max_rate"], DEFAULTS["max_rate"]

#: Bounds of the rate over the critical one; None where no step was found to be too long.
BINS: tuple[tuple[str, float, float], ...] = (
    ("up to 1, or not asked", 0.0, 1.0),
    ("1 to 3", 1.0, 3.0),
    (f"3 to {WARNED:g}", 3.0, WARNED),
    (f"{WARNED:g} to {FAILS:g}", WARNED, FAILS),
    (f"{FAILS:g} to 100", FAILS, 100.0),
    ("more than 100", 100.0, float("inf")),
)
#: The same of rates that are lower than one that is too large.
SHARES = (0.0, 0.03, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True)
class Row:
    """One training of a network that some training has taught, and what is said of its rate."""

    number: int
    optimizer: str
    rate: float
    accuracy: float
    excess: float | None
    severity: str

    @property
    def half(self) -> str:
        """What limits were chosen on, or tested."""
        return recipe(self.number).half


def write(rows: Sequence[Row], healthy: Records) -> None:
    """Write the page."""
    blocks = [INTRODUCTION, _by_excess(rows), _verdicts(rows), _margins(rows), _healthy(healthy)]
    WRITTEN.write_text("\n\n".join([*blocks, environment()]) + "\n", encoding="utf-8")


def counted(rows: Iterable[Row]) -> str:
    """How many learned, learned in part, and did not: "12 / 3 / 40"."""
    shares = [row.accuracy for row in rows]
    learned = sum(share >= LEARNED for share in shares)
    lost = sum(share < FAILED for share in shares)
    return f"{learned} / {len(shares) - learned - lost} / {lost}"


def _by_optimizer(
    title: str, rows: Sequence[Row], groups: Mapping[str, Callable[[Row], bool]]
) -> str:
    names = [*dict.fromkeys(row.optimizer for row in rows)]
    heads = [f"{name}, {half}" for name in names for half in ("calibration", "test")]
    cells = [
        (
            group,
            *(
                counted(r for r in rows if r.optimizer == name and r.half == half and belongs(r))
                for name in names
                for half in ("calibration", "test")
            ),
        )
        for group, belongs in groups.items()
    ]
    return markdown_table(cells, title, *heads)


def _by_excess(rows: Sequence[Row]) -> str:
    def within(low: float, high: float) -> Callable[[Row], bool]:
        return lambda row: low < (row.excess or 1.0) <= high

    table = _by_optimizer(
        "rate / critical rate", rows, {name: within(low, high) for name, low, high in BINS}
    )
    return f"## What learns, by the rate over the critical one\n\n{table}"


def _verdicts(rows: Sequence[Row]) -> str:
    def told(severity: str) -> Callable[[Row], bool]:
        return lambda row: row.severity == severity

    groups = {name or "nothing": told(name) for name in ("failure", "warning", "")}
    table = _by_optimizer("GH603", rows, groups)
    return f"## What is said\n\n{table}\n\n{VERDICTS}"


def _margins(rows: Sequence[Row]) -> str:
    """What became of lower rates, where one was far too large."""
    smallest: dict[tuple[int, str], tuple[float, float]] = {}
    for row in rows:
        if row.excess is not None and row.excess > WARNED:
            known = row.rate, row.rate / row.excess
            place = row.number, row.optimizer
            smallest[place] = min(smallest.get(place, known), known)
    shares = [
        (row, row.rate / smallest[row.number, row.optimizer][1])
        for row in rows
        if (row.number, row.optimizer) in smallest
    ]
    names = [*dict.fromkeys(row.optimizer for row in rows)]
    cells = [
        (
            f"{low:g} to {high:g}",
            *(
                counted(r for r, share in shares if r.optimizer == name and low < share <= high)
                for name in names
            ),
        )
        for low, high in pairwise(SHARES)
    ]
    table = markdown_table(cells, "rate / critical rate", *names)
    return f"## How much lower is low enough\n\n{MARGINS}\n\n{table}"


def _healthy(healthy: Records) -> str:
    known = {key: record["said"] for key, record in healthy.items() if "said" in record}
    cells, lines = [], []
    for name in next(iter(known.values())):
        of = {key: said[name] for key, said in known.items()}
        severities = [one["severity"] for one in of.values()]
        cells.append(
            (
                name,
                len(of),
                sum(one["asked"] for one in of.values()),
                sum(one["excess"] is not None for one in of.values()),
                severities.count("warning"),
                severities.count("failure"),
            )
        )
        lines += [
            f"- {name}, {key}: {one['severity']} at x{short(one['excess'])}; in 60 steps on its"
            f" batch the loss goes from {short(one['losses'][0])} to {short(one['losses'][1])}"
            for key, one in of.items()
            if one["severity"]
        ]
    table = markdown_table(
        cells, "optimizer", "networks", "step made", "loss rises", "warnings", "failures"
    )
    return f"## Healthy networks at usual rates\n\n{HEALTHY}\n\n{table}\n\n" + "\n".join(lines)


INTRODUCTION = f"""\
# Learning rates and the critical one

`python -m examples.study.rates` writes this page. GH603 makes the first step of the declared
optimizer on a copy, and where it raises the loss of its own batch, asks how much shorter it would
have to be. The random networks of the study are trained at the rates of its journal (SGD with
momentum .9: .001 to .3; Adam: 1e-4 to 1e-2), 140 shallow ones also with plain SGD and at rates up
to 10 (SGD) and 1 (Adam). Counted are the networks that some training has taught: how many read
{LEARNED:.0%} of the digits / more than {FAILED:.0%} / fewer. Limits were chosen on the calibration
half."""

VERDICTS = """\
Adam only warns: of what it takes far beyond its critical rate, a part learns all the same (most of
them linear networks), and what those have in common is not seen in a first step, nor in ten."""

MARGINS = """\
Where some rate of an optimizer is above the limit for a warning, what became of its rates over the
critical one, both halves together. The message proposes a fifth, and a tenth with momentum .9."""

HEALTHY = """\
"Step made" counts the networks for which the step promises more than five times the loss, so that a
probe costs one training step and one forward more; "loss rises" those whose step is too long by
whatever little."""

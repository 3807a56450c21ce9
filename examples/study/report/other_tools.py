"""The section on peers: their verdicts on the same sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from examples.study.journal import Record
from examples.study.peers import PEERS
from examples.study.report.scoring import Judged
from examples.study.report.text import Records, markdown_table
from examples.study.stages import faults


def peers(test: Sequence[Judged], healthy: Records, known: Records) -> str:
    """Every peer's formulas on the same sets."""
    zoo = [r for r in healthy.values() if "peers" in r]
    sick: list[Record] = []
    cured: list[Record] = []
    for key, record in known.items():
        name = key.partition(":")[2].rpartition("@")[0]
        if "peers" in record and not faults()[name].out_of_reach:
            (cured if key.startswith("cured") else sick).append(record)
    lost = [j.record for j in test if j.label == "neither"]
    fine = [j.record for j in test if j.sgd]
    sets = (lost, fine, zoo, sick, cured)

    def ours(record: Record) -> list[bool]:
        return [verdict == "failure" for verdict in record["verdicts"]]

    def line(title: str, of: Callable[[Record], list[bool]]) -> tuple[str, ...]:
        cells = [
            f"{sum(of(r)[0] for r in records) / len(records):.0%}" if records else ""
            for records in sets
        ]
        compared = [r for records in sets for r in records if len(of(r)) > 1]
        moved = sum(len(set(of(r))) > 1 for r in compared)
        return (title, *cells, f"{moved / len(compared):.0%}")

    rows = [line("**pytest-gradhealth** (failures)", ours)]
    for about, title in (("gradients", ""), ("all", ", all its rules")):
        rows += [
            line(f"{p.name} {p.version}{title}", lambda r, n=p.name, a=about: r["peers"][n][a])  # type: ignore[misc]
            for p in PEERS
        ]
    return (
        "## 5. Peers\n\nEach by its published formula and default, on one forward and backward at"
        " the start; tools made to watch a whole training are judged here by a moment of it. Flags"
        " by rules on gradients and loss, then by all rules (activations, weights, updates). The"
        " last column: verdicts that change when the loss is multiplied by 1e-4 or 1e4. The healthy"
        " architectures are those of section 2 under the first seed; the known faults count by"
        " probe, three for each.\n\n"
        + markdown_table(
            rows,
            "tool",
            "neither trains (test half)",
            "SGD trains (test half)",
            "healthy architectures",
            "known faults",
            "cured twins",
            "scale changes",
        )
    )


def theory() -> str:
    """What is compared with closed forms."""
    return (
        "## 7. Theory\n\n`tests/theory/` compares the probe with closed forms: mean-field theory,"
        " batch norm, residual growth, isometry, dropout, recurrence. Five profiles:"
        "\n\n![profiles](results/profiles.svg)"
    )

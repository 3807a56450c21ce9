"""The part of the section on peers with tools that were run as they are installed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from examples.study.journal import Record
from examples.study.operators.truth import label_of
from examples.study.report.scoring import Share
from examples.study.report.text import Records, markdown_table
from examples.study.tools import TOOLS

#: Sets of networks, and what they are called.
SETS = {
    "lost": "neither trains (test half)",
    "trained": "SGD trains (test half)",
    "healthy": "healthy architectures",
    "fault": "known faults",
    "twin": "cured twins",
    "does not train": "operators that do not train",
    "trains": "transformers that train",
}


def installed_tools(asked: Records, training: Records) -> str:
    """What each says of each set, errors alone and with its warnings; how many it was asked of."""
    of: dict[tuple[str, str], list[Record]] = {}
    for key, record in asked.items():
        name, _, network = key.partition("|")
        of.setdefault((name, _set_of(network, training)), []).append(record)
    rows, reasons = [], []
    for tool in TOOLS:
        mine = {name: of.get((tool.name, name), []) for name in SETS}
        for title, levels in (("errors", ("error",)), ("and warnings", ("error", "warning"))):
            cells = [_share(records, levels) for records in mine.values()]
            rows.append((f"{tool.name} {tool.version}, {title}", *cells, _moved(mine, levels)))
        unasked = [r for records in mine.values() for r in records if "said" not in r]
        why = Counter(r["not applicable"].partition(":")[0] for r in unasked)
        most = "; ".join(f"{text} ({count})" for text, count in why.most_common(2))
        reasons.append(f"- {tool.name}: {tool.about}." + f" Not asked: {most}." * bool(why))
    return (
        "### Tools that were run\n\nAs they are installed, with their defaults, under the first"
        " seed: of so many networks that a tool could be asked about, so many were flagged. A slow"
        " one was asked about a part of a set.\n\n"
        + markdown_table(rows, "tool", *SETS.values(), "scale changes")
        + "\n\n"
        + "\n".join(reasons)
    )


def _set_of(network: str, training: Records) -> str:
    """The set of a network; that of a transformer by what training made of it."""
    name = network.partition(":")[0]
    if name not in ("sick", "cured"):
        return name
    record = training.get(f"{network}@0")
    return "unknown" if record is None else label_of(record)


def _share(records: Sequence[Record], levels: Sequence[str]) -> str:
    said = [record["said"][0] for record in records if "said" in record]
    share = Share(sum(_flagged(found, levels) for found in said), len(said))
    return f"{share.count} of {share.of}" if said else ""


def _moved(sets: dict[str, list[Record]], levels: Sequence[str]) -> str:
    every = [r["said"] for records in sets.values() for r in records if len(r.get("said", ())) > 1]
    moved = sum(len({_flagged(found, levels) for found in said}) > 1 for said in every)
    return f"{moved / len(every):.0%}" if every else ""


def _flagged(said: Sequence[Sequence[str]], levels: Sequence[str]) -> bool:
    return any(level in levels for _, level in said)

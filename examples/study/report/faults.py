"""The section on known faults and their cured twins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from examples.study.report.text import Records, markdown_table
from examples.study.stages import faults


def sides(known: Records) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Verdicts by name of the faults in reach and of all cured twins."""
    sick: dict[str, list[str]] = {}
    cured: dict[str, list[str]] = {}
    for key, record in known.items():
        side, _, rest = key.partition(":")
        name = rest.rpartition("@")[0]
        verdict = "error" if "error" in record else record["verdicts"][0]
        if side == "cured":
            cured.setdefault(name, []).append(verdict)
        elif not faults()[name].out_of_reach:
            sick.setdefault(name, []).append(verdict)
    return sick, cured


def known_faults(known: Records) -> str:
    """Every fault with its verdicts, and those out of reach."""
    rows, unreachable = [], []
    for name, fault in faults().items():
        found = [known[k] for k in (f"sick:{name}@{s}" for s in (0, 1, 2)) if k in known]
        twin = [known[k] for k in (f"cured:{name}@{s}" for s in (0, 1, 2)) if k in known]
        codes = sorted(
            {c for r in found for c, severity, *_ in r.get("findings", ()) if severity == "failure"}
        )
        verdicts = [r["verdicts"][0] for r in found if "verdicts" in r]
        row = (
            name,
            fault.symptom,
            told(verdicts),
            " ".join(codes),
            told([r["verdicts"][0] for r in twin if "verdicts" in r]),
            fault.remedy,
            fault.sick.source,
        )
        if fault.out_of_reach:
            unreachable.append((name, fault.out_of_reach, told(verdicts), fault.sick.source))
        else:
            rows.append(row)
    heads = ("fault", "why", "verdict", "source")
    sick, cured = sides(known)
    every = sum(all(v == "failure" for v in verdicts) for verdicts in sick.values())
    some = sum("failure" in verdicts for verdicts in sick.values())
    warned = sum({"failure", "warning"} & set(v) != set() for v in sick.values())
    wrong = sum("failure" in v for v in cured.values())
    return (
        "## 3. Known faults\n\nRebuilt from their descriptions, each with its cured twin, under"
        " three seeds (`faults/`).\n\n"
        f"Of {len(sick)} faults in reach, {every} fail under every seed, {some} under at least one,"
        f" and {warned} fail or warn. Of {len(cured)} cured twins, {wrong} fail.\n\n"
        + markdown_table(rows, "fault", "symptom", "sick", "codes", "cured", "remedy", "source")
        + "\n\n### Out of reach\n\nNo gradient at the start shows these.\n\n"
        + markdown_table([r for r in unreachable if not _trains(r)], *heads)
        + "\n\n### Not reproduced\n\nRebuilt from what is known of them, these train.\n\n"
        + markdown_table([r for r in unreachable if _trains(r)], *heads)
    )


def _trains(row: Sequence[str]) -> bool:
    return row[1].startswith(("rebuilt", "the original trains"))


def told(verdicts: Sequence[str]) -> str:
    """Verdicts under several seeds in a few words."""
    counts = Counter(verdicts)
    if len(counts) == 1 and verdicts:
        return verdicts[0]
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())

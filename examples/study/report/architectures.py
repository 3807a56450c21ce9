"""The section on healthy architectures: every one that is not called healthy, and why."""

from __future__ import annotations

from collections import Counter

from examples.study.report.explanations import EXPLANATIONS
from examples.study.report.text import Records, markdown_table, short


def false_alarms(healthy: Records) -> str:
    """The healthy architectures: how many, and every one that is not called healthy."""
    measured = [r for r in healthy.values() if "error" not in r]
    broken = [r for r in healthy.values() if "error" in r]
    rows = []
    for family in dict.fromkeys(r["family"] for r in measured):
        mine = [r for r in measured if r["family"] == family]
        verdicts = Counter(r["verdicts"][0] for r in mine)
        seeds = sorted({r["seed"] for r in mine})
        rows.append(
            (
                family,
                len({r["name"] for r in mine}),
                f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0]),
                verdicts["healthy"],
                verdicts["not judged"],
                verdicts["warning"],
                verdicts["failure"],
            )
        )
    listed: dict[tuple[str, str], list[str]] = {}
    for record in measured:
        for code, severity, layer, value in record["findings"]:
            text = f"{code} {severity} at {layer}" + ("" if value is None else f": {short(value)}")
            listed.setdefault((record["family"], record["name"]), []).append(
                f"{text} (seed {record['seed']})"
            )
    lines = [
        f"- **{name}** ({family}). {EXPLANATIONS[name]} {'; '.join(texts)}"
        for (family, name), texts in listed.items()
    ]
    lines += [f"- {r['family']}, {r['name']} could not be probed: {r['error']}" for r in broken]
    return (
        "## 2. False alarms: healthy architectures\n\nDefault initialisation, train mode. The"
        " networks are in `zoo/`.\n\n"
        + markdown_table(
            rows, "family", "networks", "seeds", "healthy", "not judged", "warnings", "failures"
        )
        + "\n\nEverything that warns or fails, and why:\n\n"
        + "\n".join(lines)
    )

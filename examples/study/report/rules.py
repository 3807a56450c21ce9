"""The section on rules: what each flags of what is healthy, what it finds, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from statistics import fmean

from examples.study.declared.faults import declared
from examples.study.journal import Record
from examples.study.report.rates import Row
from examples.study.report.scoring import Share
from examples.study.report.text import Records, markdown_table
from examples.study.stages import faults
from examples.study.trainability import FAILED, LEARNED
from pytest_gradhealth.rules import built_in_rules

#: Rules that say nothing of a model and a batch alone.
ASKING = frozenset(
    ("GH102", "GH202", "GH409", "GH501", "GH601", "GH602", "GH603", "GH604"),
)
#: The largest share of healthy models that a rule may flag.
ALLOWED = 1 / 500


def rules(
    healthy: Records, known: Records, added: Mapping[str, Records], rates: Iterable[Row]
) -> str:
    """Every rule on the healthy set, and those that ask for something declared, with their cost."""
    return "\n\n".join(
        (
            f"## 6. Rules\n\nNo rule may fail more than 1 in {1 / ALLOWED:g} healthy models.",
            _usual(healthy, known),
            _declared(added, rates),
        )
    )


def _usual(healthy: Records, known: Records) -> str:
    """Rules that a probe of a model and a batch applies."""
    probes = [record for record in healthy.values() if "error" not in record]
    sick = [r for key, r in known.items() if key.startswith("sick") and _in_reach(key)]
    rows = []
    for rule in built_in_rules():
        if rule.code in ASKING:
            continue
        failing = Share(sum(_says(r, rule.code, "failure") for r in probes), len(probes))
        warned = {r["name"] for r in probes if _says(r, rule.code, "warning")}
        found = {r["name"] for r in sick if _says(r, rule.code, "failure")}
        rows.append(
            (
                f"{rule.code} {rule.name}",
                failing,
                _within(failing),
                len(warned),
                len(found),
            )
        )
    return (
        f"By probe of a healthy architecture ({len(probes)}); warnings by architecture, each"
        " explained in section 2; faults of section 3 that fail by it under any seed, beside"
        " others or alone. Rules that ask for something declared are below, as far as this study"
        " measures them.\n\n"
        + markdown_table(
            rows, "rule", "healthy: fail", "below 1 in 500", "architectures warned", "faults found"
        )
    )


def _declared(added: Mapping[str, Records], rates: Iterable[Row]) -> str:
    """Rules that ask for something declared."""
    said, learning = added["declared"], added["learning"]
    healthy = [r for k, r in said.items() if k.startswith("healthy") and "error" not in r]
    rows: list[tuple[object, ...]] = [
        (title, *_counts(said, healthy, code, part), cost(healthy))
        for code, title, part, cost in (
            ("GH602", "GH602 untrained (Adam declared)", "", _no_pass),
            ("GH409", "GH409 unwritten (factory declared)", "", _builds),
            ("GH401", "GH401 of parts of weights", "parts", _no_pass),
        )
    ]
    rows += [_rates(added["rates-healthy"], rates), _learning(learning)]
    return (
        markdown_table(
            rows,
            "rule",
            "healthy: flagged",
            "below 1 in 500",
            "faults: fail",
            "fail or warn",
            "cured: flagged",
            "cost",
        )
        + f"\n\n{READING}"
    )


READING = """\
Healthy are the architectures of section 2, as many as were asked; for GH603 those at usual rates
that do not diverge, for GH604 a part of them. Faults are those of `declared/`, under three seeds;
for GH603 trainings that broke, beside those that learned; for GH604 a third of those of section 3.
Where an interval does not end below 1 in 500, none of so many is all that is
known."""


def _counts(
    said: Records, healthy: list[Record], code: str, part: str
) -> tuple[Share, str, Share, Share, Share]:
    names = {fault.name for fault in declared().values() if fault.code == code}
    sides = {
        side: [r for k, r in said.items() if k.startswith(side) and _name(k) in names]
        for side in ("sick", "cured")
    }
    flagged = Share(
        sum(_says(r, code, "failure", *(() if part else ("warning",))) for r in healthy),
        len(healthy),
    )
    return (
        flagged,
        _within(flagged),
        _share(sides["sick"], lambda r: "error" in r or _says(r, code, "failure")),
        _share(sides["sick"], lambda r: "error" in r or _says(r, code, "failure", "warning")),
        _share(sides["cured"], lambda r: _says(r, code, "failure", "warning")),
    )


def _rates(healthy: Records, rates: Iterable[Row]) -> tuple[object, ...]:
    """GH603: flagged are healthy networks that stand the rate; faults are runs that broke."""
    said = [(name, one) for r in healthy.values() for name, one in r.get("said", {}).items()]
    stood = [one for _, one in said if not one["severity"] or _finite(one)]
    flagged = Share(sum(bool(one["severity"]) for one in stood), len(stood))
    runs = [row for row in rates if row.excess is not None]
    broke = [row for row in runs if row.accuracy <= FAILED]
    learned = [row for row in runs if row.accuracy >= LEARNED]
    asked = Share(sum(one["asked"] for _, one in said), len(said))
    return (
        "GH603 step-too-long (RATES.md)",
        flagged,
        _within(flagged),
        Share(sum(row.severity == "failure" for row in broke), len(broke)),
        Share(sum(bool(row.severity) for row in broke), len(broke)),
        Share(sum(bool(row.severity) for row in learned), len(learned)),
        f"a step and a forward, for {asked.value:.0%} of the declared rates",
    )


def _learning(learning: Records) -> tuple[object, ...]:
    """GH604, which is asked for: known faults and their twins, and a part of the healthy set."""
    of = {
        side: [r for k, r in learning.items() if k.startswith(side) and "error" not in r]
        for side in ("healthy", "sick", "cured")
    }
    flagged = _share(of["healthy"], lambda r: _says(r, "GH604", "failure", "warning"))
    forwards = [r["forwards"] for r in of["healthy"]]
    cost = f"{fmean(forwards):.0f} steps on average" if forwards else ""
    return (
        "GH604 unlearned (asked for)",
        flagged,
        _within(flagged),
        _share(of["sick"], lambda r: _says(r, "GH604", "failure")),
        _share(of["sick"], lambda r: _says(r, "GH604", "failure", "warning")),
        _share(of["cured"], lambda r: _says(r, "GH604", "failure", "warning")),
        cost,
    )


def _no_pass(_healthy: list[Record]) -> str:
    return "none"


def _builds(healthy: list[Record]) -> str:
    more = [r["builds"] > 1 for r in healthy]
    return f"a second build for {sum(more)} of {len(more)}, and a forward" if more else ""


def _share(of: list[Record], test: Callable[[Record], bool]) -> Share:
    return Share(sum(map(test, of)), len(of))


def _within(share: Share) -> str:
    """Whether the interval of a share ends below what is allowed."""
    if not share.of:
        return ""
    if share.value > ALLOWED:
        return "no"
    return "yes" if share.interval[1] < ALLOWED else f"as far as {share.of} show"


def _says(record: Record, code: str, *severities: str) -> bool:
    return any(f[0] == code and f[1] in severities for f in record.get("findings", ()))


def _finite(one: Mapping[str, list[float]]) -> bool:
    last = one["losses"][1]
    return last == last


def _name(key: str) -> str:
    return key.partition(":")[2].rpartition("@")[0]


def _in_reach(key: str) -> bool:
    fault = faults().get(_name(key))
    return fault is not None and not fault.out_of_reach

"""What every format says of a run: what fails, what warns, and what was found in a line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pytest_gradhealth.formatting import count, factor, number
from pytest_gradhealth.reporting.run import Probe, Run
from pytest_gradhealth.results.diagnosis import Severity, Verdict

#: The code of a baseline that is not there.
MISSING = "missing-baseline"


@dataclass(frozen=True)
class Item:
    """One thing to tell of a probe: a finding, or what a baseline says.

    `value` and `limit` are as they are shown.
    """

    severity: Severity
    code: str
    layer: str
    message: str
    value: str = ""
    limit: str = ""


def items(probe: Probe) -> Iterator[Item]:
    """What fails, warns or keeps from judging, worst first; what baselines say comes first."""
    for check in probe.checks:
        for change in check.failing:
            compared = change.kind in ("path", "step", "output")
            yield Item(
                "failure",
                change.fails,
                change.layer,
                change.message,
                factor(change.after) if compared else "",
                f"before: {factor(change.before)}" if compared else "",
            )
        if check.status == "missing" and probe.message:
            text = f"no baseline for {check.key} in {check.file}"
            yield Item("failure", MISSING, "", text)
    for finding in probe.diagnosis.findings:
        if finding.severity != "info":
            yield Item(
                finding.severity,
                finding.code,
                finding.layer,
                finding.message,
                "" if finding.value is None else number(finding.value),
                "" if finding.limit is None else number(finding.limit),
            )


def fails(probe: Probe) -> bool:
    """Whether what was measured is a reason that the test has failed."""
    return probe.outcome in ("failed", "error") and any(
        item.severity == "failure" for item in items(probe)
    )


def warns(probe: Probe) -> bool:
    """Whether there is something to look at in a test that has not failed, and was not to fail."""
    return (
        not fails(probe)
        and not probe.expected
        and any(item.severity != "not judged" for item in items(probe))
    )


def is_unjudged(probe: Probe) -> bool:
    """Whether there was nothing to judge, in a test that has nothing worse to tell."""
    return shown_verdict(probe) == "not judged" and not warns(probe)


def is_clean(probe: Probe) -> bool:
    """Whether all was judged, and nothing found."""
    return not fails(probe) and not warns(probe) and not is_unjudged(probe)


def verdict_line(run: Run) -> str:
    """One line on all probes: "2 of 7 probes fail, 1 warns, 1 not judged"."""
    failing, warning = sum(map(fails, run.probes)), sum(map(warns, run.probes))
    unjudged = sum(map(is_unjudged, run.probes))
    expected = sum(p.expected and p.diagnosis.verdict == "failure" for p in run.probes)
    total = len(run.probes)
    if not total:
        return "no test probed a model"
    if not failing and not warning and not expected and not unjudged:
        return "1 probe, healthy" if total == 1 else f"{total} probes, all healthy"
    parts = [f"{failing} of {count(total, 'probe')} {'fails' if failing == 1 else 'fail'}"]
    parts += [f"{warning} {'warns' if warning == 1 else 'warn'}"] * bool(warning)
    parts += [f"{expected} {'fails' if expected == 1 else 'fail'} as expected"] * bool(expected)
    parts += [f"{unjudged} not judged"] * bool(unjudged)
    return ", ".join(parts) if failing else f"{count(total, 'probe')}: {', '.join(parts[1:])}"


def ratio(probe: Probe) -> str:
    """The ratio of the worst path, "-" without a path of two points."""
    path = probe.diagnosis.judged_path
    return factor(path.arrival) if path is not None and path.links else "-"


def shown_verdict(probe: Probe) -> Verdict:
    """What a probe counts as: what made its test fail is a failure, whatever the rules say."""
    return "failure" if fails(probe) else probe.diagnosis.verdict

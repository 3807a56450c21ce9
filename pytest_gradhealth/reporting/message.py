"""The text of a verdict: what was found, the gradient path as a table, the cause, what to type."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_gradhealth.formatting import (
    LONGEST_FINDING,
    View,
    coded,
    count,
    factor,
    hanging,
    portion,
    printable,
    shortened,
)
from pytest_gradhealth.reporting.advice import acceptance, causes, is_certain, pages
from pytest_gradhealth.reporting.path_table import path_table
from pytest_gradhealth.reporting.run import Probe
from pytest_gradhealth.reporting.summary import warns
from pytest_gradhealth.reporting.treatments import treatment_blocks
from pytest_gradhealth.results.diagnosis import Diagnosis, Finding, worst_path
from pytest_gradhealth.results.path import GradientPath
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules import known_rules


def render(
    diagnosis: Diagnosis, findings: Sequence[Finding] | None = None, view: View | None = None
) -> str:
    """Return the message for some findings of a diagnosis (by default all but information)."""
    if findings is None:
        findings = [finding for finding in diagnosis.findings if finding.severity != "info"]
    view, rules = view or View(), known_rules(diagnosis)
    shown = {f.code: [g for g in findings if g.code == f.code] for f in findings}
    drawn = [rules[code] for code in sorted(shown) if code in rules and rules[code].exhibit]
    blocks = [headline(diagnosis, findings)]
    path = None
    of_path = not shown or shown.keys() - {rule.code for rule in drawn}
    if of_path and diagnosis.verdict != "not judged":
        path = worst_path(diagnosis.profile, findings)
    hidden = 0
    blocks.append(setting_line(diagnosis, path, findings))
    if path is not None:
        table, hidden = path_table(path, findings, view)
        blocks.append(table)
    for rule in drawn:
        lines = rule.table(diagnosis, shown[rule.code], view).splitlines()
        blocks.append("\n".join(shortened(line, LONGEST_FINDING) for line in lines))
    more = (
        f"{printable(view.rerun)} -v\n        (shows all {len(path.points)} points)"
        if hidden and view.rerun and path is not None
        else ""
    )
    blocks.append("\n".join(advice(diagnosis, findings, view, more)))
    blocks += treatment_blocks(diagnosis, view, certain=is_certain(diagnosis, findings))
    return "\n\n".join(block for block in blocks if block)


def message_of(probe: Probe) -> str:
    """What a test has failed with, or what there is to say of one that passed and complains."""
    told = probe.message or not (warns(probe) or probe.expected)
    return probe.message if told else render(probe.diagnosis)


def headline(diagnosis: Diagnosis, findings: Sequence[Finding]) -> str:
    """One line per finding, worst first; one line of good news without any."""
    if not findings:
        model, path = shortened(diagnosis.model, 40), diagnosis.judged_path
        if path is None or not path.links:
            return f"{model}: no gradient path of two points or more to judge"
        reaches = f"{portion(path.arrival, 'the gradient')} reaches {path.destination}"
        if path is not diagnosis.worst_path and diagnosis.confirmation is not None:
            reaches += f" after {count(diagnosis.confirmation.steps, 'step')}"
        return shortened(f"{model} is healthy: {reaches}", LONGEST_FINDING)
    return "\n".join(coded(_sentence(f, diagnosis), f.code) for f in findings)


def _sentence(finding: Finding, diagnosis: Diagnosis) -> str:
    if finding.severity != "not judged":
        return finding.message
    reason = finding.message.removeprefix("nothing to judge: ")
    return f"{shortened(diagnosis.model, 40)} is not judged: {reason}"


def setting_line(
    diagnosis: Diagnosis, path: GradientPath | None, findings: Sequence[Finding] = ()
) -> str:
    """Where and how it was measured, and what the second look said of the first finding."""
    parts = [f"{shortened(diagnosis.model, 40)} on {shortened(diagnosis.device, 40)}"]
    parts += ["measured eagerly"] * diagnosis.eager
    parts += filter(None, [shortened(diagnosis.profile.objective, 60)])
    if path is None:
        parts.append(f"trained with {shortened(diagnosis.optimizer, 80)}")
    else:
        parts.append(count(len(path.points), "point"))
    seeds = diagnosis.seeds
    if len(seeds) > 1:
        parts.append(f"seed {diagnosis.decisive_seed} of {', '.join(map(str, seeds))}")
    else:
        parts.append(f"seed {seeds[0]}")
    line = ", ".join(parts)
    second = diagnosis.confirmation
    if second is not None and path is not None:
        again = _seen_again(second, path, findings[0] if findings else None, diagnosis)
        if again:
            steps = f"{count(second.steps, 'step')} of {shortened(diagnosis.optimizer, 80)}"
            line += f"\nlooked at again after {steps}: {again}"
    return line


def _seen_again(
    second: GradientProfile, path: GradientPath, finding: Finding | None, diagnosis: Diagnosis
) -> str:
    """What the second look showed of what was judged: the path's ratio unless it is another."""
    if finding is not None and finding.path is None:
        rule = known_rules(diagnosis).get(finding.code)
        if rule is not None and rule.quantity is not None and rule.exhibit is None:
            shown = rule.quantity.shown(rule.value(second))
            return shown and f"{rule.quantity.title} {shown}"
    again = second.same_path(path)
    return "" if again is None else factor(again.arrival)


def advice(
    diagnosis: Diagnosis, findings: Sequence[Finding], view: View, more: str = ""
) -> Iterator[str]:
    """Causes and what to try, what shows more, what would let this pass, and where to read on."""
    for label, words in causes(diagnosis, findings):
        yield hanging(label, words, view.width)
    if more:
        yield f"next:   {more}"  # on one line, however long, so that it can be copied
    accept = acceptance(diagnosis, findings)
    if accept:
        yield hanging("accept", accept, view.width)
    page = pages(findings, view)
    if page:
        yield f"rule:   {page}"

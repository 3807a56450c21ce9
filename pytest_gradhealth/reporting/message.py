"""The text of a verdict: what was found, the gradient path as a table, the cause, what to type."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pytest_gradhealth.config.options import SETTING_OF
from pytest_gradhealth.formatting import WIDTH, count, factor, hanging, number, printable, shortened
from pytest_gradhealth.reporting.causes import causes_of
from pytest_gradhealth.reporting.tables import (
    COMPARED,
    path_table,
    penalties_table,
    times_table,
    underflow_table,
    updates_table,
)
from pytest_gradhealth.reporting.treatments import treatment_blocks
from pytest_gradhealth.results.diagnosis import Diagnosis, Finding, worst_path
from pytest_gradhealth.results.path import GradientPath
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules.regulariser_dominates import drowned
from pytest_gradhealth.rules.rule import value_of
from pytest_gradhealth.rules.vanishing_in_time import too_short

#: Rules that are shown by tables of their own.
_OWN_TABLE = {"GH102", "GH202", "GH501", "GH601"}
#: Settings that are shares of a layer.
_SHARES = {"max_dead", "max_saturated", "max_underflow"}
#: Characters of a finding that are shown, however long the names in it.
LONGEST_LINE = 400


def render(
    diagnosis: Diagnosis,
    findings: Sequence[Finding] | None = None,
    *,
    verbose: bool = False,
    rerun: str = "",
    width: int = WIDTH,
) -> str:
    """Return the message for some findings of a diagnosis (by default all but information).

    `rerun` is the command that shows all layers; `verbose` shows them at once.
    """
    if findings is None:
        findings = [finding for finding in diagnosis.findings if finding.severity != "info"]
    codes = {finding.code for finding in findings}
    profile = diagnosis.profile
    blocks = [headline(diagnosis, findings)]
    path = worst_path(profile, findings) if codes - _OWN_TABLE or not codes else None
    hidden = 0
    if path is not None:
        table, hidden = path_table(path, findings, verbose=verbose, width=width)
        blocks += [setting_line(diagnosis, path, findings), table]
    else:
        blocks.append(setting_line(diagnosis, None, findings))
    if "GH102" in codes:
        blocks += [times_table(record, width) for record in too_short(findings, profile)]
    if "GH501" in codes:
        blocks.append(underflow_table(profile, verbose=verbose))
    if "GH202" in codes:
        blocks.append(updates_table(profile.updates))
    if "GH601" in codes:
        limit = diagnosis.limits["max_penalty"].value
        weights = drowned(profile, diagnosis.confirmation, limit)
        blocks.append(penalties_table(profile, weights, verbose=verbose))
    blocks.append(_advice(diagnosis, findings, path, hidden, rerun, width))
    blocks += treatment_blocks(diagnosis, verbose=verbose, width=width)
    return "\n\n".join(block for block in blocks if block)


def headline(diagnosis: Diagnosis, findings: Sequence[Finding]) -> str:
    """One line per finding, worst first; one line of good news without any."""
    if not findings:
        model, path = shortened(diagnosis.model, 40), diagnosis.worst_path
        if path is None or not path.links:
            return f"{model}: no gradient path of two points or more to judge"
        share = f"{factor(path.l2)} of the gradient reaches {path.first.title}"
        return shortened(f"{model} is healthy: {share}", LONGEST_LINE)
    return "\n".join(
        f"{shortened(f.message, LONGEST_LINE)} [{printable(f.code)}]" for f in findings
    )


def setting_line(
    diagnosis: Diagnosis, path: GradientPath | None, findings: Sequence[Finding] = ()
) -> str:
    """Where and how it was measured, and what the second look said of the first finding."""
    parts = [f"{shortened(diagnosis.model, 40)} on {printable(diagnosis.device)}"]
    if path is None:
        parts.append(f"trained with {diagnosis.optimizer}")
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
        again = _seen_again(second, path, findings[0].code if findings else "")
        if again:
            steps = f"{count(second.steps, 'step')} of {diagnosis.optimizer}"
            line += f"\nlooked at again after {steps}: {again}"
    return line


def _seen_again(second: GradientProfile, path: GradientPath, code: str) -> str:
    """What the second look showed of what was judged: the path's ratio unless it is another."""
    if code in COMPARED and code not in _OWN_TABLE:
        value = value_of(code, second)
        name, form = COMPARED[code]
        return "" if value is None else f"{name} {form.format(number(value))}"
    again = next((p for p in second.paths if p.first.label == path.first.label), None)
    return "" if again is None else factor(again.l2)


def _advice(
    diagnosis: Diagnosis,
    findings: Sequence[Finding],
    path: GradientPath | None,
    hidden: int,
    rerun: str,
    width: int,
) -> str:
    lines: list[str] = []
    cured = any(treatment.outcome == "cured" for treatment in diagnosis.treatments)
    for cause in causes_of(findings, diagnosis.profile):
        lines.append(hanging("cause", cause.because, width))
        if not cured:  # what was tried says more than what might be
            lines.append(hanging("try", cause.advice, width))
    if hidden and rerun and path is not None:
        # On one line, however long, so that it can be copied.
        lines.append(f"next:   {printable(rerun)} -v")
        lines.append(f"        (shows all {len(path.points)} points)")
    limited = next((f for f in findings if f.limit is not None and f.severity == "failure"), None)
    if limited is not None and limited.value is not None and not _is_wild(limited):
        lines.append(hanging("accept", _acceptance(limited), width))
    return "\n".join(lines)


def _is_wild(finding: Finding) -> bool:
    """Whether nobody can mean it: a step that throws a weight a hundred times its size away."""
    return finding.code == "GH202" and not (finding.value or 0.0) < 100


def _acceptance(finding: Finding) -> str:
    """The setting that would let this value pass, for whoever knows better."""
    name = SETTING_OF.get(finding.code)
    if name is None:
        return f"--gradhealth-ignore={finding.code} leaves the rule out"
    value = finding.value or 0.0
    if not value or math.isinf(value):
        return f"no {name} lets this pass; --gradhealth-ignore={finding.code} leaves the rule out"
    if name in _SHARES:
        return f"{name}={math.ceil(100 * value) / 100:g}, if this is meant to be"
    rounded = math.floor if name.startswith("min") else math.ceil
    exponent = rounded(math.log10(value))
    return f"{name}=1e{exponent:+03d}, if this is meant to be".replace("+", "+")

"""The HTML report: one file with everything in it, and the same plot and table for notebooks."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from functools import cache
from typing import Any

from pytest_gradhealth.formatting import LONGEST_FINDING, LONGEST_PARAGRAPH, number
from pytest_gradhealth.reporting.advice import acceptance, causes
from pytest_gradhealth.reporting.message import render
from pytest_gradhealth.reporting.plots import branches, path_plots, text, time_plots
from pytest_gradhealth.reporting.run import Probe, Run
from pytest_gradhealth.reporting.summary import items, ratio, shown_verdict, verdict_line, warns
from pytest_gradhealth.reporting.treatments import NO_CURE
from pytest_gradhealth.results.diagnosis import VERDICTS, Diagnosis, Measure, Treatment
from pytest_gradhealth.results.profile import OutputRecord

#: Rows of a table that are listed; a plot has all points.
MOST_ROWS = 400
#: Findings, and outputs of a block, that are listed.
MOST_ITEMS = 100
#: Characters of a commit, which tell it from all others.
LONGEST_COMMIT = 12


def html_report(run: Run) -> str:
    """Return the report as one page that needs no network, the failures on top."""
    from markupsafe import Markup

    ordered = sorted(run.probes, key=lambda p: (VERDICTS.index(shown_verdict(p)), p.expected))
    probes = [_section(index, probe) for index, probe in enumerate(ordered)]
    invocation = run.invocation
    page: str = _template("report.html.j2").render(
        line=verdict_line(run),
        verdicts=VERDICTS,
        date=text(invocation.date),
        commit=text(invocation.commit[:LONGEST_COMMIT]),
        command=text(invocation.command, LONGEST_FINDING),
        environment={text(k): text(v) for k, v in run.environment.items() if v},
        notes=[text(note, LONGEST_FINDING) for note in run.notes],
        probes=probes,
        style=Markup(_asset("report.css")),
        chart=Markup(_asset("chart.umd.min.js")),
        script=Markup(_asset("report.js")),
        data=_json_for_script([section["plots"] for section in probes]),
    )
    return page


def html_fragment(diagnosis: Diagnosis) -> str:
    """Return the plot and the table of one diagnosis, for a notebook's output cell.

    It lives in a frame of its own, so that neither styles nor scripts meet those of the page.
    """
    from markupsafe import escape

    page = html_report(Run((Probe("", "passed", diagnosis),)))
    page = page.replace("<body>", '<body class="fragment">', 1)
    return (
        f'<iframe srcdoc="{escape(page)}" title="gradient health" style="width:100%;height:620px;'
        'border:0" sandbox="allow-scripts"></iframe>'
    )


def _section(index: int, probe: Probe) -> dict[str, Any]:
    diagnosis = probe.diagnosis
    found = [*items(probe)]
    plots = path_plots(probe)
    verdict = shown_verdict(probe)
    return {
        "number": index,
        "test": text(probe.test or diagnosis.model, 300),
        "model": text(diagnosis.model),
        "verdict": verdict,
        "open": verdict == "failure" and not probe.expected,
        "outcome": probe.outcome if probe.test else "",
        "ratio": ratio(probe),
        "device": text(diagnosis.device),
        "objective": text(diagnosis.profile.objective),
        "optimizer": text(diagnosis.optimizer),
        "milliseconds": f"{diagnosis.milliseconds:.0f}",
        "seeds": ", ".join(map(str, diagnosis.seeds)),
        "items": [
            {
                "severity": item.severity,
                "code": text(item.code),
                "message": text(item.message, LONGEST_FINDING),
            }
            for item in found[:MOST_ITEMS]
        ],
        "message": _message(probe),
        "plots": {"paths": plots, "times": time_plots(diagnosis.profile.times)},
        "tables": [_rows(plot) for plot in plots],
        "branches": [
            (text(block), [_output(o) for o in outputs[:MOST_ITEMS]], len(outputs))
            for block, outputs in branches(diagnosis)
        ],
        **_help(probe),
        **_treatments(diagnosis.treatments),
    }


def _help(probe: Probe) -> dict[str, Any]:
    """What a card opens with: cause and cure in words behind labels, and the test's command."""
    diagnosis = probe.diagnosis
    findings = [finding for finding in diagnosis.findings if finding.complains]
    advice = [*causes(diagnosis, findings)]
    accept = acceptance(diagnosis, findings)
    advice += [("accept", accept)] * bool(accept)
    complains = any(item.severity in ("failure", "warning") for item in items(probe))
    command = shlex.join(["pytest", probe.test]) if probe.test and complains else ""
    return {
        "advice": [(label, text(words, LONGEST_PARAGRAPH)) for label, words in advice],
        "command": text(command, LONGEST_FINDING),
    }


def _treatments(treatments: Sequence[Treatment]) -> dict[str, Any]:
    """The code of what cured, the table of what was tried, and what was not."""
    cured = [t for t in treatments if t.outcome == "cured"]
    tried = [t for t in treatments if t.after is not None]
    return {
        "cures": [(text(t.remedy), _code(t)) for t in cured],
        "tried": [_treatment(t) for t in tried],
        "untried": [_treatment(t) for t in treatments if t.after is None],
        "no_cure": NO_CURE if tried and not cured else "",
    }


def _treatment(treatment: Treatment) -> dict[str, str]:
    return {
        "remedy": text(treatment.remedy),
        "outcome": treatment.outcome,
        "before": _value(treatment.before),
        "value": _value(treatment.after),
        "reason": text(treatment.reason, LONGEST_FINDING),
    }


def _value(measure: Measure | None) -> str:
    return "" if measure is None or measure.value is None else number(measure.value)


def _code(treatment: Treatment) -> str:
    return "\n".join(text(line, LONGEST_FINDING) for line in treatment.code.splitlines())


def _message(probe: Probe) -> str:
    """What the test failed with, or what the terminal would show of a diagnosis with findings."""
    shown = probe.message
    if not shown and (warns(probe) or probe.expected):
        shown = render(probe.diagnosis)
    return "\n".join(text(line, LONGEST_FINDING) for line in shown[:50_000].split("\n"))


def _rows(plot: dict[str, Any]) -> dict[str, Any]:
    """The points of a path with the lines beside it, first and last where there are too many."""
    points, lines = plot["points"], plot["lines"]
    rows = [
        {**point, "others": [line["shown"][index] for line in lines]}
        for index, point in enumerate(points)
    ]
    half = MOST_ROWS // 2
    hidden = max(0, len(rows) - MOST_ROWS)
    return {
        "title": plot["title"],
        "names": [line["name"] for line in lines],
        "head": rows[:half] if hidden else rows,
        "tail": rows[-half:] if hidden else [],
        "hidden": hidden,
    }


def _output(output: OutputRecord) -> dict[str, str]:
    about = "~" if output.sampled == "both" else ""
    return {
        "layer": text(output.name),
        "type": text(output.type),
        "shape": "x".join(map(str, output.shape)),
        "norm": output.state if output.norm is None else f"{about}{number(output.norm)}",
    }


def _json_for_script(value: Any) -> Any:
    """JSON that nothing in it can end the script element of."""
    from markupsafe import Markup

    plain = json.dumps(value, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        plain = plain.replace(character, f"\\u{ord(character):04x}")
    return Markup(plain)


@cache
def _asset(name: str) -> str:
    from importlib.resources import files

    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")


def _template(name: str) -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_asset(name))

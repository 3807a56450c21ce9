"""The HTML report: one file with everything in it, and the same plot and table for notebooks."""

from __future__ import annotations

import shlex
from functools import cache
from typing import Any

from pytest_gradhealth.formatting import LONGEST_FINDING, LONGEST_PARAGRAPH, number
from pytest_gradhealth.reporting.advice import acceptance, causes, is_certain
from pytest_gradhealth.reporting.message import message_of
from pytest_gradhealth.reporting.plots import branches, path_plots, text, time_plots
from pytest_gradhealth.reporting.run import Probe, Run
from pytest_gradhealth.reporting.summary import items, ratio, shown_verdict, verdict_line
from pytest_gradhealth.reporting.treatments import NO_CURE
from pytest_gradhealth.results.diagnosis import VERDICTS, Diagnosis, Measure

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
    page: str = _template("report.html.j2").render(
        run=run,
        line=verdict_line(run),
        verdicts=VERDICTS,
        environment={name: value for name, value in run.environment.items() if value},
        probes=probes,
        most=MOST_ITEMS,
        most_rows=MOST_ROWS,
        longest=LONGEST_FINDING,
        paragraph=LONGEST_PARAGRAPH,
        commit_length=LONGEST_COMMIT,
        style=Markup(_asset("report.css")),
        chart=Markup(_asset("chart.umd.min.js")),
        script=Markup(_asset("report.js")),
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
    """What a card shows; the template cuts text to what there is room for."""
    diagnosis, verdict = probe.diagnosis, shown_verdict(probe)
    treatments = diagnosis.treatments
    return {
        "number": index,
        "diagnosis": diagnosis,
        "test": text(probe.test or diagnosis.model, 300),
        "verdict": verdict,
        "open": verdict == "failure" and not probe.expected,
        "outcome": probe.outcome if probe.test else "",
        "ratio": ratio(probe),
        "items": [*items(probe)][:MOST_ITEMS],
        "message": message_of(probe)[:50_000],
        "plots": {"paths": path_plots(probe), "times": time_plots(diagnosis.profile.times)},
        "branches": branches(diagnosis),
        "cures": [t for t in treatments if t.outcome == "cured"],
        "tried": [t for t in treatments if t.after is not None],
        "untried": [t for t in treatments if t.after is None],
        **_help(probe),
    }


def _help(probe: Probe) -> dict[str, Any]:
    """What a card opens with: causes and cures behind labels, what lets it pass, a command."""
    diagnosis = probe.diagnosis
    findings = [finding for finding in diagnosis.findings if finding.complains]
    complains = any(item.severity in ("failure", "warning") for item in items(probe))
    command = shlex.join(["pytest", probe.test]) if probe.test and complains else ""
    return {
        "advice": [*causes(diagnosis, findings)],
        "no_cure": "" if is_certain(diagnosis, findings) else NO_CURE,
        "accept": acceptance(diagnosis, findings),
        "command": command,
    }


def _measured(measure: Measure | None) -> str:
    return "" if measure is None or measure.value is None else number(measure.value)


def _lines(value: str) -> str:
    return "\n".join(text(line, LONGEST_FINDING) for line in value.split("\n"))


@cache
def _asset(name: str) -> str:
    from importlib.resources import files

    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")


def _template(name: str) -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.filters |= {"text": text, "number": number, "lines": _lines, "measured": _measured}
    return environment.from_string(_asset(name))

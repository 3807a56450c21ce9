"""Reports that are files, by kind."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from pytest_gradhealth.reporting.run import Run


def render_file(kind: str, run: Run, path: Path) -> None:
    """Write a report; Markdown is put at the end of what the file has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = "a" if kind == "markdown" else "w"
    with path.open(mode, encoding="utf-8", newline="\n") as file:
        file.write(rendered(kind, run))


def rendered(kind: str, run: Run) -> str:
    """Return a report as text."""
    if kind == "html":
        from pytest_gradhealth.reporting.html import html_report

        return html_report(run)
    if kind == "markdown":
        from pytest_gradhealth.reporting.markdown import markdown_report

        return markdown_report(run)
    if kind == "sarif":
        from pytest_gradhealth.reporting.sarif import sarif_report
        from pytest_gradhealth.rules import built_in_rules, known_rules

        known = [known_rules(probe.diagnosis).values() for probe in run.probes]
        told = dict.fromkeys((*built_in_rules(), *itertools.chain(*known)))
        rules = [(rule.code, rule.name, rule.summary) for rule in told]
        return json.dumps(sarif_report(run, rules), indent=1) + "\n"
    from pytest_gradhealth.reporting.json_report import write_json

    return write_json(run)

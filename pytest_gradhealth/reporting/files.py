"""Reports that are files, by kind."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from pytest_gradhealth.files import is_stream, rewrite
from pytest_gradhealth.reporting.run import Run


def render_file(kind: str, run: Run, path: Path) -> None:
    """Write a report; Markdown is put at the end of what the file has. Raises OSError."""

    def text() -> bytes:
        appended = kind == "markdown" and path.is_file() and not is_stream(path)
        before = path.read_bytes() if appended else b""
        return before + rendered(kind, run).encode("utf-8", "backslashreplace")

    rewrite(path, text)


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
        return json.dumps(sarif_report(run, [*told]), indent=1) + "\n"
    from pytest_gradhealth.reporting.json_report import write_json

    return write_json(run)

"""The Markdown summary: a verdict line, what fails, the rest folded, and never too large."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_gradhealth import Run
from pytest_gradhealth.reporting.markdown import LARGEST, markdown_report
from pytest_gradhealth.reporting.run import Probe
from tests.helpers.runs import LONG_NAME, SICK, WARNS, many, measured, net


def test_markdown_has_a_verdict_line_what_fails_and_the_rest_folded(run: Run) -> None:
    text = markdown_report(run)
    assert text.startswith("### Gradient health: 2 of 4 probes fail, 1 warns\n\n| test | what |")
    assert "| `test_a.py::test_net` | `regression` `x" in text
    assert "- `stale in f.json: test_old`" in text
    assert "<details><summary>1 probe without a complaint</summary>" in text
    folded = text[text.index("<details>") :]
    assert "the gradient vanishes" in folded
    assert re.search(r"\| `test_a.py::test_healthy` \| healthy \| x", folded)


def test_what_warns_has_its_cause_and_its_page_too() -> None:
    healthy = Probe("t.py::well", "passed", measured(net()))
    text = markdown_report(Run((Probe("t.py::test_net", "passed", WARNS), healthy)))
    (folded,) = re.findall(
        r"<code>t.py::test_net</code></summary>\n\n```text\n(.*?)\n```", text, re.S
    )
    assert folded == str(WARNS)
    assert re.search(r"(?m)^cause:  \w", folded)
    assert "rule:   pytest --gradhealth-explain GH101" in folded
    assert text.count("```text") == 1


WIDE = "\U0001d54f"  # four bytes in UTF-8


@pytest.mark.parametrize("name", ["n", LONG_NAME, WIDE * 290, "|`" * 145], ids=range(4))
@pytest.mark.parametrize(
    "kinds", [("healthy",), ("warning",), ("failing",), ("healthy", "failing")]
)
def test_a_summary_never_gets_too_large(kinds: tuple[str, ...], name: str) -> None:
    probes = tuple(probe for kind in kinds for probe in many(kind, 2500, name))
    notes = tuple(f"{i}{name}" for i in range(2500))
    text = markdown_report(Run(probes, {f"{i}{name}": name for i in range(2500)}, notes))
    assert len(text.encode()) <= LARGEST
    assert re.search(r"^\d+ more rows left out$", text, re.MULTILINE)
    assert text.count("<details>") == text.count("</details>")
    assert "<summary>environment</summary>" in text
    assert f"- `{'`' if '`' in name else ''}" in text
    if "healthy" in kinds:
        folded = text[text.index("2500 probes without a complaint") :]
        assert folded.count("| healthy |") > 10
    if "failing" in kinds:
        assert re.search(r"^\d+ messages left out: a summary may not be larger\.$", text, re.M)


def test_rows_are_cut_to_what_fits_and_counted() -> None:
    text = markdown_report(Run(many("healthy", 2500)))
    shown = text.count("| healthy |")
    assert 1000 < shown <= 2000
    assert f"\n\n{2500 - shown} more rows left out\n" in text
    text = markdown_report(Run(many("failing", 201, "n")))
    assert text.count("| `t") == 200
    more = 201 * sum(finding.severity != "info" for finding in SICK.findings) - 200
    assert f"\n\n{more} more row{'s' * (more > 1)} left out\n" in text


def test_a_small_run_is_shown_whole(run: Run) -> None:
    assert "left out" not in markdown_report(run)


def test_markdown_is_appended(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "from torch import nn, randn\ndef test_one(gradhealth):\n"
        "    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))\n"
        "    gradhealth.assert_healthy(model, randn(8, 4))\n"
    )
    Path("summary.md").write_text("before\n")
    for _ in range(2):
        pytester.runpytest("--gradhealth-markdown=summary.md", "-p", "no:cacheprovider")
    text = Path("summary.md").read_text()
    assert text.startswith("before\n### Gradient health: 1 probe, healthy\n")
    assert text.count("### Gradient health") == 2

"""The Markdown report, made for the summary of a CI run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pytest_gradhealth.reporting.summary import Item, fails, items, ratio, verdict_line, warns
from pytest_gradhealth.run import Probe, Run
from pytest_gradhealth.wording import count, shortened

#: Bytes of a step's summary that GitHub shows at most, less some room.
LARGEST = 1_000_000
#: Characters of a name or message that are shown.
_LONGEST = 300


def markdown_report(run: Run) -> str:
    """Return a verdict line, a table of what fails and warns, and everything else folded.

    Healthy probes are left out where the report would get larger than a summary may be.
    """
    failing = [probe for probe in run.probes if fails(probe)]
    warning = [probe for probe in run.probes if warns(probe)]
    others = [probe for probe in run.probes if not fails(probe) and not warns(probe)]
    blocks = [f"### Gradient health: {verdict_line(run)}"]
    blocks += [_table(probes) for probes in (failing, warning) if probes]
    blocks += [f"- {code(note)}" for note in run.notes]
    size = sum(len(block.encode("utf-8", "replace")) + 2 for block in blocks)
    folded = [_message(probe) for probe in failing if probe.message]
    folded += [_healthy(others)] if others else []
    folded.append(_environment(run))
    left_out = 0
    for block in folded:
        size += len(block.encode("utf-8", "replace")) + 2
        if size > LARGEST:
            left_out += 1
        else:
            blocks.append(block)
    if left_out:
        blocks.append(f"{count(left_out, 'section')} left out: a summary may not be larger.")
    return "\n\n".join(block for block in blocks if block) + "\n"


def code(text: str, longest: int = _LONGEST) -> str:
    """Text as a code span, in which nothing is markup, a link or a mention; also in tables.

    >>> code("a|b"), code("a`b")
    ('`a\\\\|b`', '`` a`b ``')
    """
    text = shortened(text, longest).encode("utf-8", "replace").decode()
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    room = " " if "`" in text or not text.strip() else ""
    return fence + room + text.replace("|", "\\|") + room + fence


def _table(probes: Sequence[Probe]) -> str:
    rows = [(probe, item) for probe in probes for item in items(probe)]
    lines = ["| test | what | layer | value | limit |", "| --- | --- | --- | --- | --- |"]
    lines += [_row(probe, item) for probe, item in rows[:200]]
    if len(rows) > 200:
        lines.append(f"\n{len(rows) - 200} more rows left out")
    return "\n".join(lines)


def _row(probe: Probe, item: Item) -> str:
    what = f"{code(item.code, 40)} {code(item.message)}"
    cells = [code(probe.test), what, code(item.layer) if item.layer else "", item.value, item.limit]
    return f"| {' | '.join(cells)} |"


def _message(probe: Probe) -> str:
    """The whole message of a test that failed, folded."""
    lines = [
        shortened(line, _LONGEST).encode("utf-8", "replace").decode()
        for line in probe.message[:20_000].split("\n")
    ]
    body = "\n".join(lines)
    fence = "`" * (3 + max(map(len, re.findall("`{3,}", body)), default=0))
    return _folded(_html(probe.test), f"{fence}text\n{body}\n{fence}")


def _healthy(probes: Sequence[Probe]) -> str:
    lines = ["| test | verdict | ratio | model | device |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {code(probe.test)} | {_verdict(probe)} | {ratio(probe)} |"
        f" {code(probe.diagnosis.model, 40)} | {code(probe.diagnosis.device, 40)} |"
        for probe in probes[:2000]
    ]
    if len(probes) > 2000:
        lines.append(f"\n{len(probes) - 2000} more rows left out")
    return _folded(f"{count(len(probes), 'probe')} without a complaint", "\n".join(lines))


def _verdict(probe: Probe) -> str:
    return probe.diagnosis.verdict + (" (expected)" if probe.expected else "")


def _environment(run: Run) -> str:
    rows = list(_environment_rows(run))
    return _folded("environment", "\n".join(rows)) if rows else ""


def _environment_rows(run: Run) -> Iterator[str]:
    for name, value in run.environment.items():
        if value:
            yield f"- {code(name, 40)} {code(value, 80)}"


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"


def _html(text: str) -> str:
    from html import escape

    shown = shortened(text, _LONGEST).encode("utf-8", "replace").decode()
    return f"<code>{escape(shown)}</code>"

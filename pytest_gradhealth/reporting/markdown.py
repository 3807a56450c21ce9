"""The Markdown report, made for the summary of a CI run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pytest_gradhealth.formatting import count, shortened
from pytest_gradhealth.reporting.message import message_of
from pytest_gradhealth.reporting.run import Probe, Run
from pytest_gradhealth.reporting.summary import (
    Item,
    fails,
    is_clean,
    is_unjudged,
    items,
    ratio,
    verdict_line,
    warns,
)

#: Bytes of a step's summary that GitHub shows at most, less some room.
LARGEST = 1_000_000
#: Characters of a name or message that are shown.
_LONGEST = 300
_HEAD = ("| test | what | layer | value | limit |", "| --- | --- | --- | --- | --- |")


def markdown_report(run: Run) -> str:
    """Return a verdict line, a table of what there is to tell, and everything else folded.

    The text is never larger than LARGEST: rows are cut with a count of those left out, and so are
    messages.
    """
    failing = [probe for probe in run.probes if fails(probe)]
    warning = [probe for probe in run.probes if warns(probe)]
    unjudged = [probe for probe in run.probes if is_unjudged(probe)]
    others = [probe for probe in run.probes if is_clean(probe)]
    environment = _environment(run)
    page = _Page(LARGEST - _size(environment))
    page.add(f"### Gradient health: {verdict_line(run)}")
    for probes in (failing, warning, unjudged):
        rows = [_row(probe, item) for probe in probes for item in items(probe)]
        # Each part leaves the other half of the room to those that follow.
        page.add(_cut(_HEAD, rows, page.room // 2, most=200) if rows else "")
    notes = [f"- {code(note)}" for note in run.notes]
    page.add(_cut((), notes, page.room // 2, most=200) if notes else "")
    kept_for_others = page.room // 10 if others else 0
    left_out = 0
    for probe in (*failing, *warning):
        message = message_of(probe)
        if message:
            left_out += not page.add(_message(probe, message), leaving=kept_for_others + 100)
    if left_out:
        page.add(f"{count(left_out, 'message')} left out: a summary may not be larger.")
    if others:
        page.add(_healthy(others, page.room))
    return "\n\n".join([*page.blocks, *filter(None, [environment])]) + "\n"


class _Page:
    """Blocks of Markdown, and the bytes that are left for more."""

    def __init__(self, room: int) -> None:
        self.room = room - 4
        self.blocks: list[str] = []

    def add(self, block: str, leaving: int = 0) -> bool:
        """Add a block, if there is one and room for it; return whether there was room."""
        size = _size(block) + 2
        if size > self.room - leaving:
            return False
        if block:
            self.room -= size
            self.blocks.append(block)
        return True


def _size(text: str) -> int:
    return len(text.encode())


def _cut(head: Sequence[str], rows: Sequence[str], room: int, most: int) -> str:
    """A table, or a list without a head: the rows that there is room for, and how many more."""
    room -= sum(_size(line) + 1 for line in head) + len("\n\n1000000 more rows left out")
    kept: list[str] = []
    for row in rows[:most]:
        room -= _size(row) + 1
        if room < 0:
            break
        kept.append(row)
    left = len(rows) - len(kept)
    return "\n".join([*head, *kept, *[f"\n{count(left, 'more row')} left out"] * bool(left)])


def code(text: str, longest: int = _LONGEST) -> str:
    """Text as a code span, in which nothing is markup, a link or a mention; also in tables.

    >>> code("a|b"), code("a`b")
    ('`a\\\\|b`', '`` a`b ``')
    """
    text = shortened(text, longest)
    runs = re.findall("`+", text) if "`" in text else []
    fence = "`" * (1 + max(map(len, runs), default=0))
    room = " " if runs or not text.strip() else ""
    return fence + room + text.replace("|", "\\|") + room + fence


def _row(probe: Probe, item: Item) -> str:
    what = f"{code(item.code, 40)} {code(item.message)}"
    cells = [code(probe.test), what, code(item.layer) if item.layer else "", item.value, item.limit]
    return f"| {' | '.join(cells)} |"


def _message(probe: Probe, message: str) -> str:
    """The whole message of a test that failed or warns, folded."""
    body = "\n".join(shortened(line, _LONGEST) for line in message[:20_000].split("\n"))
    fence = "`" * (3 + max(map(len, re.findall("`{3,}", body)), default=0))
    return _folded(_html(probe.test), f"{fence}text\n{body}\n{fence}")


def _healthy(probes: Sequence[Probe], room: int) -> str:
    title = f"{count(len(probes), 'probe')} without a complaint"
    head = ["| test | verdict | ratio | model | device |", "| --- | --- | --- | --- | --- |"]
    rows = [
        f"| {code(probe.test)} | {_verdict(probe)} | {ratio(probe)} |"
        f" {code(probe.diagnosis.model, 40)} | {code(probe.diagnosis.device, 40)} |"
        for probe in probes[:2000]
    ]
    rows += [""] * (len(probes) - len(rows))
    return _folded(title, _cut(head, rows, room - _size(_folded(title, "")) - 2, most=2000))


def _verdict(probe: Probe) -> str:
    return probe.diagnosis.verdict + (" (expected)" if probe.expected else "")


def _environment(run: Run) -> str:
    rows = list(_environment_rows(run))
    return _folded("environment", _cut((), rows, LARGEST // 10, most=50)) if rows else ""


def _environment_rows(run: Run) -> Iterator[str]:
    for name, value in run.environment.items():
        if value:
            yield f"- {code(name, 40)} {code(value, 80)}"


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"


def _html(text: str) -> str:
    from html import escape

    return f"<code>{escape(shortened(text, _LONGEST))}</code>"

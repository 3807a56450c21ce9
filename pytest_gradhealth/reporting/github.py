"""Annotations that GitHub shows at the lines of the tests: workflow commands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_gradhealth.formatting import coded, printable, shortened
from pytest_gradhealth.reporting.run import Probe, Run
from pytest_gradhealth.reporting.summary import Item, fails, is_unjudged, items, warns

#: Annotations of one kind that GitHub shows for a step.
MOST = 10


def workflow_commands(run: Run) -> Iterator[str]:
    """Yield a command for each test that fails, warns or judged nothing for what was measured."""
    yield from _commands("error", [probe for probe in run.probes if fails(probe)])
    yield from _commands("warning", [probe for probe in run.probes if warns(probe)])
    yield from _commands("notice", [probe for probe in run.probes if is_unjudged(probe)])


def _commands(level: str, probes: Sequence[Probe]) -> Iterator[str]:
    told = [(probe, list(items(probe))) for probe in probes]
    for index, (probe, found) in enumerate(told[:MOST]):
        message = "\n".join(coded(item.message, item.code) for item in found[:MOST])
        if index == MOST - 1 and len(told) > MOST:
            message += f"\nand {len(told) - MOST} more probes, which GitHub does not show"
        yield _command(level, probe, found[0], message)


def _command(level: str, probe: Probe, first: Item, message: str) -> str:
    place = {"file": probe.file, "line": "" if probe.line is None else str(probe.line)}
    title = f"gradient health: {shortened(first.code, 40)}"
    properties = {**place, "title": title}
    listed = ",".join(f"{name}={_property(value)}" for name, value in properties.items() if value)
    return f"::{level} {listed}::{_data(message)}"


def _data(text: str) -> str:
    """Escaped as the runner expects: one line, and nothing in it that is decoded to another."""
    return "%0A".join(printable(line).replace("%", "%25") for line in text.split("\n"))


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")

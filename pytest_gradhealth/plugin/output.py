"""What the plugin has pytest print: harmless lines, in characters that the terminal has."""

from __future__ import annotations

from typing import NoReturn

import pytest


def write_line(reporter: pytest.TerminalReporter, text: str, **markup: bool) -> None:
    """Write one line, whatever is in the names in it."""
    from pytest_gradhealth.formatting import LONGEST_LINE, shortened

    _write(reporter, shortened(text, LONGEST_LINE), **markup)


def write_command(reporter: pytest.TerminalReporter, command: str) -> None:
    """Write a line that a CI system is to take for a command, and for no more than one."""
    from pytest_gradhealth.formatting import visible

    _write(reporter, visible(command))


def fail(text: str) -> NoReturn:
    """Fail the test that is running with a message and no traceback."""
    from pytest_gradhealth.formatting import harmless

    pytest.fail(harmless(text), pytrace=False)


def usage_error(text: str) -> pytest.UsageError:
    """What stops a run that was started with what it cannot do."""
    from pytest_gradhealth.formatting import harmless

    return pytest.UsageError(harmless(text))


def _write(reporter: pytest.TerminalReporter, line: str, **markup: bool) -> None:
    from pytest_gradhealth.formatting import encodable

    reporter.write_line(encodable(line, reporter._tw._file), **markup)

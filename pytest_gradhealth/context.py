"""What surrounds an assertion: a pytest test, or nothing.

The plugin enters a context for each test; assertions ask for it. Outside pytest there is none, and
they work with the defaults.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType
    from typing import Protocol

    from pytest_gradhealth.assertions.warned import Heard
    from pytest_gradhealth.config.settings import Settings
    from pytest_gradhealth.errors import GradientHealthError
    from pytest_gradhealth.formatting import View
    from pytest_gradhealth.probing.cache import ProbeCache
    from pytest_gradhealth.remedies.remedy import Remedy
    from pytest_gradhealth.results.diagnosis import Diagnosis
    from pytest_gradhealth.rules.rule import Rule

    class Context(Protocol):
        """What a running test lends to the assertions in it."""

        @property
        def nodeid(self) -> str:
            """The name of the test, from pytest's rootdir."""

        @property
        def part(self) -> tuple[int, int]:
            """How many times the test was left, and its parts: the body, the teardown, or again."""

        @property
        def tests(self) -> Sequence[str]:
            """The names of all tests that this process is to run."""

        @property
        def settings(self) -> Settings:
            """What marker, command line and ini file say."""

        @property
        def rules(self) -> Sequence[Rule]:
            """The rules that apply to the test."""

        @property
        def remedies(self) -> Sequence[Remedy]:
            """The remedies to try on what fails in it."""

        @property
        def probes(self) -> ProbeCache:
            """The probes of the test so far."""

        @property
        def heard(self) -> Heard:
            """What the test was warned of."""

        @property
        def view(self) -> View:
            """How messages are drawn, with the command that runs the test alone."""

        @property
        def base_seed(self) -> int:
            """The first seed of its probes."""

        def begin(self) -> None:
            """Say that a check begins, which may skip the test."""

        def record(self, diagnosis: Diagnosis) -> None:
            """Take a diagnosis into the reports."""

        def compare_with_baseline(
            self, diagnosis: Diagnosis, settings: Settings, name: str
        ) -> tuple[type[GradientHealthError], str] | None:
            """Compare with the test's baseline; return what that fails with, if it does."""

        def stop_run(self, reason: str) -> None:
            """Let the run end with this test."""


#: The file and the line of a call.
Place = tuple[str, int]

_HOME = __file__.removesuffix("context.py")
_entered: list[Context] = []


def current() -> Context | None:
    """The context of the running test, None outside pytest."""
    return _entered[-1] if _entered else None


@contextmanager
def entered(context: Context) -> Generator[None, None, None]:
    """Make `context` the current one; a pytest run inside a test has its own in between."""
    _entered.append(context)
    try:
        yield
    finally:
        _entered.remove(context)


def called_from() -> Place:
    """Where the package was called."""
    *_, outside = _frames()
    return outside.f_code.co_filename, outside.f_lineno


def frames_inside() -> int:
    """How far up the code lies that has called the package, as the function counts that asks."""
    return len(_frames()) - 2


def _frames() -> list[FrameType]:
    """The frames of the package that are at work, the innermost first, and the one outside."""
    import inspect

    found, frame = [], inspect.currentframe()
    while frame is not None:
        found.append(frame)
        if not frame.f_code.co_filename.startswith(_HOME):
            break
        frame = frame.f_back
    return found

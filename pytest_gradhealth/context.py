"""What surrounds an assertion: a pytest test, or nothing.

The plugin enters a context for each test; assertions ask for it. Outside pytest there is none, and
they work with the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pytest_gradhealth.options import Settings
    from pytest_gradhealth.probes import ProbeCache
    from pytest_gradhealth.records import Diagnosis
    from pytest_gradhealth.rules import Rule


class Context(Protocol):
    """What a test lends to the assertions in it."""

    @property
    def verbose(self) -> bool:
        """Whether messages show all layers."""
        ...

    @property
    def rerun(self) -> str:
        """The command that runs this test alone."""
        ...

    @property
    def base_seed(self) -> int:
        """The first seed, always the same for this test."""
        ...

    @property
    def settings(self) -> Settings:
        """Marker, command line and ini file, merged; raises SettingError for a bad value."""
        ...

    @property
    def rules(self) -> Sequence[Rule]:
        """The rules, those of hooks included."""
        ...

    @property
    def probes(self) -> ProbeCache:
        """The probes of this test so far."""
        ...

    def begin(self) -> None:
        """Called before a check; skips the test when checks are switched off."""
        ...

    def record(self, diagnosis: Diagnosis) -> None:
        """Take a diagnosis into the report; one already there is replaced."""
        ...


current: ContextVar[Context | None] = ContextVar("gradhealth_context", default=None)

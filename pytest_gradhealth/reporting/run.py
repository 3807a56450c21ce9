"""What a pytest run has probed: the one record that every report is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pytest_gradhealth.baseline.check import Check
from pytest_gradhealth.results.diagnosis import Diagnosis

TestOutcome = Literal["passed", "failed", "skipped", "xfailed", "xpassed", "error"]


@dataclass(frozen=True)
class Probe:
    """One probe: the test that made it, how that ended, and what was measured.

    `test` is pytest's node id, `file` and `line` (from 1) where the test is, from pytest's rootdir
    (in GitHub Actions from the top of the checkout).
    `message` is what the test failed with, where a check of this package failed it. `of_fixture`
    says that a fixture has made the probe and not the body of the test.
    """

    test: str
    outcome: TestOutcome
    diagnosis: Diagnosis
    checks: tuple[Check, ...] = ()
    message: str = ""
    file: str = ""
    line: int | None = None
    of_fixture: bool = False

    @property
    def expected(self) -> bool:
        """Whether the failure is expected (xfail)."""
        return self.outcome in ("xfailed", "xpassed")


@dataclass(frozen=True)
class Invocation:
    """When a run was made (UTC), of which commit and by which command, "" where it is not known."""

    date: str = ""
    commit: str = ""
    command: str = ""


@dataclass(frozen=True)
class Run:
    """All probes of a run in the order of the tests; `notes` are what the gate has to say.

    Two runs that measured the same are equal, whatever their `invocation` was.
    """

    probes: tuple[Probe, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    version: int = 1
    invocation: Invocation = field(default=Invocation(), compare=False)

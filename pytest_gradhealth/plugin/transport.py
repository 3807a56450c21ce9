"""What rides on test reports, so that it arrives from pytest-xdist workers as it does without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_gradhealth.baseline.check import Check
    from pytest_gradhealth.results.diagnosis import Diagnosis

#: Attribute of a test report that carries the probes of its phase.
CARRIED = "gradhealth_probes"
#: Attribute of the report of a test that has probed what it did not compare with baselines.
UNCHECKED = "gradhealth_unchecked"
#: Attribute of a test report that says what a check has failed the test with.
MESSAGE = "gradhealth_message"
#: Whether tests that were collected are not run.
LEFT_OUT = pytest.StashKey[bool]()


class Recorded:
    """A probe of a test and the checks of it against baselines.

    What fixtures probe belongs to whichever test comes first, and is compared with nothing.
    """

    def __init__(self, diagnosis: Diagnosis) -> None:
        self.diagnosis = diagnosis
        self.checks: list[Check] = []
        self.of_fixture = True
        self.message = ""


def carried(record: Recorded) -> dict[str, Any]:
    """A probe as plain builtins, with the environment of the process that made it."""
    from pytest_gradhealth.results.environment import environment
    from pytest_gradhealth.results.serialization import to_plain

    return {
        "diagnosis": record.diagnosis.to_dict(),
        "checks": to_plain(record.checks),
        "of_fixture": record.of_fixture,
        "message": record.message,
        "environment": environment(),
    }

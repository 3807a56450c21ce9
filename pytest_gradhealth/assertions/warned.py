"""What rules warn of, as warnings of Python: where the check was called, with code and layer."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable
from pathlib import Path

import pytest_gradhealth
from pytest_gradhealth.errors import GradientHealthWarning
from pytest_gradhealth.formatting import LONGEST_FINDING, harmless, shortened
from pytest_gradhealth.results.diagnosis import Diagnosis, Finding

_HOME = Path(pytest_gradhealth.__file__).parent


def warn_of(diagnosis: Diagnosis, codes: Iterable[str] | None) -> None:
    """Warn of what some rules (None: all) warn of in a model that passes.

    Raises GradientHealthWarning where a filter makes errors of them.
    """
    __tracebackhide__ = True
    for finding in diagnosis.findings:
        if finding.severity == "warning" and (codes is None or finding.code in codes):
            warnings.warn(
                harmless(_told(finding)), category=GradientHealthWarning, stacklevel=_frames()
            )


def _told(finding: Finding) -> str:
    where = "" if finding.layer.startswith("(") else f" at {finding.layer}"
    return shortened(f"{finding.code}{where}: {finding.message}", LONGEST_FINDING)


def _frames() -> int:
    """How far up the code lies that has called the package, as warn_of counts."""
    frame, count = inspect.currentframe(), 0
    while frame is not None and _HOME in Path(frame.f_code.co_filename).parents:
        frame, count = frame.f_back, count + 1
    return count

"""Libraries of the extra `zoo`, imported where a test wants them."""

from __future__ import annotations

import warnings
from typing import Any

import pytest


def library(name: str) -> Any:
    """Import a library, or skip the test or module that asks for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what libraries say while they import is their affair
        return pytest.importorskip(
            name, reason=f"{name} is not installed; the extra zoo has it: pip install -e '.[zoo]'"
        )

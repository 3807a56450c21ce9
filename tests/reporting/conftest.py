"""The run that every format writes."""

from __future__ import annotations

import pytest

from pytest_gradhealth import Run
from tests.helpers.runs import sample


@pytest.fixture(scope="module")
def run() -> Run:
    return sample()

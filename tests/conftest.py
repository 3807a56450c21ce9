"""Imports torch before any inner pytest run, which would otherwise import it again and crash."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis  # noqa: F401  # its plugin imports it in every inner run, which takes seconds
import pytest
import torch
import torch._dynamo  # optimizers import it; a second import by an inner run would crash too

from pytest_gradhealth import context

pytest.register_assert_rewrite("tests.helpers")

#: For networks this small, sharing the work costs more than doing it, most of all under xdist.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Most tests fail models for other reasons than to see remedies, which would take their time.

    Those that do want them say so in their calls.
    """
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gradhealth(remedy_budget=0))


@pytest.fixture(autouse=True)
def _same_output_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where CI is set, pytest repeats whole messages in its summary."""
    for name in ("CI", "BUILD_NUMBER", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _own_random_numbers() -> Iterator[None]:
    """Every test draws the same numbers, in any order, and leaves none behind."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def _outside_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a script: no seed from the test's name, no verbosity, no command to run again."""
    monkeypatch.setattr(context, "_entered", [])

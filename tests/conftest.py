"""Imports torch before any inner pytest run, which would otherwise import it again and crash."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis  # noqa: F401  # it asks the collector of garbage who holds the random numbers
import pytest
import torch
import torch._dynamo  # optimizers import it; a second import by an inner run would crash too
from execnet import gateway_io

from pytest_gradhealth import context

pytest.register_assert_rewrite("tests.helpers")

gc.disable()  # until all is loaded

#: For networks this small, sharing the work costs more than doing it, most of all under xdist.
torch.set_num_threads(1)

#: What says that this machine has an accelerator, to torch here and in the processes of tests.
IS_AVAILABLE = {module: module.is_available for module in (torch.accelerator, torch.cuda)}
VISIBLE = "CUDA_VISIBLE_DEVICES"
SEEN = os.environ.get(VISIBLE)
HAS_ACCELERATOR = torch.accelerator.is_available()

# The numbers, counts and messages of tests are those of the CPU, on any machine. With this variable
# they are run where a probe goes by itself; what only says that it is the CPU fails then.
ON_ACCELERATOR = bool(os.environ.get("TESTS_ON_ACCELERATOR"))
if not ON_ACCELERATOR:  # now, since some are measured where they are defined
    for module in IS_AVAILABLE:
        module.is_available = lambda: False  # type: ignore[attr-defined]


@pytest.fixture(scope="session", autouse=True)
def _on_the_cpu_elsewhere() -> Iterator[None]:
    """The same for the processes of tests; not before, since xdist's are to see what there is."""
    with pytest.MonkeyPatch.context() as patch:
        if not ON_ACCELERATOR:
            patch.setenv(VISIBLE, "")
        yield


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The accelerator of this machine, which only tests that ask for it see."""
    if not HAS_ACCELERATOR:
        pytest.skip("torch finds no accelerator on this machine")
    for module, is_available in IS_AVAILABLE.items():
        monkeypatch.setattr(module, "is_available", is_available)
    if SEEN is None:
        monkeypatch.delenv(VISIBLE, raising=False)
    else:
        monkeypatch.setenv(VISIBLE, SEEN)
    found = torch.accelerator.current_accelerator()
    assert found is not None
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Most tests fail models for other reasons than to see remedies, which would take their time.

    Those that do want them say so in their calls.
    """
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gradhealth(remedy_budget=0))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is loaded by its end stays: no collection of garbage has to go through it again."""
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def _same_output_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where CI is set, pytest repeats whole messages in its summary."""
    for name in ("CI", "BUILD_NUMBER", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Inner runs without what each of their processes would load: hypothesis, and torch anew."""
    from tests.helpers.workers import Worker

    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")
    monkeypatch.setattr(gateway_io, "Popen2IOMaster", Worker)
    return pytester


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

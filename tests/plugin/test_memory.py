"""After a test nothing is reachable but what will be read of it, and that is a short text."""

from __future__ import annotations

import gc
import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_gradhealth.plugin.outcomes import Outcomes
from pytest_gradhealth.plugin.transport import CARRIED, CONCLUDED, MESSAGE, UNCHECKED, unpacked

TESTS = """
import weakref

import pytest
import torch
from torch import nn

ALIVE = []


def net(kind):
    torch.manual_seed(0)
    layers, last = {"healthy": (1, nn.ReLU), "sick": (12, nn.Sigmoid)}[kind]
    parts = [part for _ in range(layers) for part in (nn.Linear(8, 8), last())]
    return nn.Sequential(*parts, nn.Linear(8, 4))


@pytest.fixture
def batch():
    x = torch.randn(16, 8)
    ALIVE.append(weakref.ref(x))
    return {"inputs": x, "targets": torch.arange(16) % 4, "loss": nn.functional.cross_entropy}


@pytest.mark.parametrize("kind", ["healthy", "sick"] * 4)
def test_it(kind, batch, gradhealth):
    model = net(kind)
    diagnosis = gradhealth.probe(model, **batch, confirm_steps=1)
    ALIVE.extend(map(weakref.ref, (model, *model.parameters(), diagnosis.origin)))
    gradhealth.assert_healthy(model, **batch, confirm_steps=1, remedy_budget=0)
"""


class Watcher:
    """Counts what is alive after each test."""

    def __init__(self) -> None:
        self.left_alive: list[int] = []
        self.objects: list[int] = []
        self.own: list[int] = []
        self.texts: list[str] = []
        self.carried: set[str] = set()
        self.failed = 0
        self._before: list[Any] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed += report.failed
        self.texts += [getattr(report, CARRIED)] if hasattr(report, CARRIED) else []
        self.carried |= {name for name in vars(report) if name.startswith("gradhealth")}

    def pytest_runtest_teardown(self, item: pytest.Function) -> None:
        self._references = item.module.ALIVE

    def pytest_runtest_logfinish(self) -> None:
        gc.collect()
        self.left_alive.append(sum(reference() is not None for reference in self._before))
        # What the interpreter knows of the last exception goes with the next test.
        self._before = [*self._references]
        if len(self.left_alive) in (4, 8):
            found = gc.get_objects()
            self.objects.append(len(found))
            kinds = [str(type(thing).__module__) for thing in found]
            self.own.append(sum(kind.startswith("pytest_gradhealth") for kind in kinds))


def _run(pytester: pytest.Pytester, *arguments: str) -> Watcher:
    watcher = Watcher()
    pytester.makepyfile(TESTS)
    # A run of pytester's records all calls of hooks, and the exceptions in them.
    code = pytest.main([str(pytester.path), "-p", "no:cacheprovider", *arguments], [watcher])
    assert (code, watcher.failed) == (1, 4)
    assert watcher.left_alive == [0] * 8
    return watcher


def test_nothing_of_a_test_is_left_but_its_record(pytester: pytest.Pytester) -> None:
    reports = ("--gradhealth-json=o.json", "--gradhealth-html=o.html", "--gradhealth-report")
    watcher = _run(pytester, *reports)
    assert watcher.carried == {CARRIED, MESSAGE, UNCHECKED}
    # One record each.
    assert watcher.own[1] - watcher.own[0] == 4, watcher.own
    grown = (watcher.objects[1] - watcher.objects[0]) / 4
    assert grown < 40, watcher.objects
    sizes = [len(text) for text in watcher.texts]
    assert max(sizes) < 8_000, sizes
    (probe,) = unpacked(watcher.texts[1])
    assert probe["diagnosis"]["verdict"] == "failure"
    assert len(str(probe)) > 4 * sizes[1]


def test_without_a_report_only_what_came_of_checks_is_left(pytester: pytest.Pytester) -> None:
    watcher = _run(pytester, "-o", "gradhealth_baseline=true", "--gradhealth-update")
    assert watcher.carried == {CONCLUDED, UNCHECKED}
    assert watcher.own[1] == watcher.own[0]


def test_how_a_test_ended_takes_a_few_bytes() -> None:
    names = [f"test_file.py::test_it[{number}]" for number in range(1000)]
    report = SimpleNamespace(outcome="passed", failed=False, skipped=False)
    outcomes = Outcomes()
    tracemalloc.start()
    try:
        for report.nodeid in names:
            for report.when in ("setup", "call", "teardown"):
                outcomes.note(report)  # type: ignore[arg-type]
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert all(map(outcomes.passed, names))
    assert taken < 200 * len(names), taken

"""What many tests leave behind in a process that runs them all, beyond what pytest keeps itself."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from examples.benchmarks.startup import run_pytest
from examples.benchmarks.table import Row
from examples.benchmarks.timing import Spread

#: Tests that are measured, and KiB that each may take.
HEALTHY, HEALTHY_TARGET = 3_000, 0.5
FAILING, FAILING_TARGET = 600, 20.0
#: Parts of a run that are measured one by one, and the tests before that fill all caches.
PARTS, FIRST = 5, 20

#: Writes how many KiB each part of the run has added to a test.
CONFTEST = """
import gc, json, tracemalloc
from pathlib import Path

PART, FIRST, seen = {part}, {first}, []

def pytest_runtest_logfinish():
    seen.append(None)
    if len(seen) == 1:
        tracemalloc.start()  # all that is imported is there by now
    if len(seen) >= FIRST and not (len(seen) - FIRST) % PART:
        gc.collect()
        seen[-1] = tracemalloc.get_traced_memory()[0] / 1024

def pytest_sessionfinish(session):
    session.exitstatus = 0  # those that fail are to
    sizes = [size for size in seen if size is not None]
    grown = [(after - before) / PART for before, after in zip(sizes, sizes[1:])]
    Path("grown.json").write_text(json.dumps(grown))
"""
#: Tests that check a model, and tests that do its step or fail with the same message without.
MODULE = """
import pytest, torch
from torch import nn
from pytest_gradhealth import assert_healthy

DEPTHS = {{"healthy": 0, "failing": 12}}
PARTS = [part for _ in range(DEPTHS["{kind}"]) for part in (nn.Linear(8, 8), nn.Sigmoid())]
BATCH = torch.randn(16, 8), torch.arange(16) % 4

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), *PARTS, nn.Linear(8, 4))

def check():
    assert_healthy(net(), *BATCH, loss=nn.functional.cross_entropy, remedy_budget=0)

def plain():
    x, y = BATCH
    nn.functional.cross_entropy(net()(x), y).backward()
    if SAID:
        raise AssertionError(SAID)

try:
    check()
    SAID = ""
except AssertionError as error:
    SAID = str(error)
assert bool(SAID) == ("{kind}" == "failing")

@pytest.mark.parametrize("turn", range({tests}))
def test_it(turn):
    {does}()
"""


def suite_rows() -> list[Row]:
    """KiB by which a test makes a run grow, with a probe less without one."""
    rows = []
    for kind, tests, target in (
        ("healthy", HEALTHY, HEALTHY_TARGET),
        ("failing", FAILING, FAILING_TARGET),
    ):
        probed, plain = grown(kind, tests, "check"), grown(kind, tests, "plain")
        of = f"{tests:,} {kind} tests, beyond pytest's own"
        beyond = Spread.of([one - other for one, other in zip(probed, plain, strict=True)])
        rows.append(Row("left of a test", of, beyond, "KiB", target))
    return rows


def grown(kind: str, tests: int, does: str) -> list[float]:
    """KiB a test, in each part of a run."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        part = tests // PARTS
        (project / "conftest.py").write_text(CONFTEST.format(part=part, first=FIRST))
        module = project / "test_suite.py"
        module.write_text(MODULE.format(kind=kind, tests=tests + FIRST, does=does))
        plugin = ["-p", "pytest_gradhealth.plugin"] if does == "check" else []
        run_pytest(project, *plugin, str(module), "-q")
        found: list[float] = json.loads((project / "grown.json").read_text())
        return found

"""What the plugin costs a run that does not use it, and a test that does, beyond its probe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from examples.benchmarks.table import Row
from examples.benchmarks.timing import Spread, difference, in_turns

#: Milliseconds.
LOAD_TARGET, TEST_TARGET = 5.0, 3.0

#: Times each test and prints the times by its name.
CONFTEST = """
import json, time
import pytest

took = {}

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    began = time.perf_counter()
    result = yield
    took.setdefault(item.originalname, []).append(time.perf_counter() - began)
    return result

def pytest_sessionfinish():
    with open("took.json", "w") as file:
        json.dump(took, file)
"""
#: The same probe by the fixture, and by the function with an empty fixture in its place.
MODULE = """
import pytest, torch
from examples.benchmarks.workloads import mlp
from pytest_gradhealth import probe

load = mlp()
probe(load.model, load.inputs, load.targets, loss=load.loss)

@pytest.fixture
def empty():
    return None

@pytest.mark.parametrize("turn", range({rounds}))
def test_asserting(gradhealth, turn):
    gradhealth.assert_healthy(load.model, load.inputs, load.targets, loss=load.loss)

@pytest.mark.parametrize("turn", range({rounds}))
def test_probing(empty, turn):
    probe(load.model, load.inputs, load.targets, loss=load.loss)
"""
#: Alternates the tests of a module that is sorted by function.
ALTERNATE = """
def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.callspec.params["turn"])
"""


def startup_rows(rounds: int) -> list[Row]:
    """Time of a run that has nothing for the plugin to do, and of a test beyond its probe."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        return [_load_row(project, rounds), _test_row(project, 5 * rounds)]


def _load_row(project: Path, rounds: int) -> Row:
    empty = project / "test_empty.py"
    empty.write_text("def test_empty():\n    pass\n")
    (project / "empty_plugin.py").write_text("")
    alone = [str(empty), "--collect-only", "-q"]
    # Plugins named like this cost a look at what is installed: an empty one costs it as well.
    times = in_turns(
        {
            "with": lambda: run_pytest(project, "-p", "pytest_gradhealth.plugin", *alone),
            "without": lambda: run_pytest(project, "-p", "empty_plugin", *alone),
        },
        rounds,
    )
    beyond = difference(times["with"], times["without"])
    return Row("plugin load", "collecting one empty test", beyond, "ms", LOAD_TARGET)


def _test_row(project: Path, rounds: int) -> Row:
    (project / "conftest.py").write_text(CONFTEST + ALTERNATE)
    module = project / "test_cost.py"
    module.write_text(MODULE.format(rounds=rounds))
    run_pytest(project, "-p", "pytest_gradhealth.plugin", str(module), "-q")
    took = json.loads((project / "took.json").read_text())
    beyond = difference(took["test_asserting"], took["test_probing"])
    return Row("test - probe", "assert_healthy on the MLP", beyond, "ms", TEST_TARGET)


def run_pytest(project: Path, *arguments: str) -> None:
    """Run pytest with the plugins that are named, and no others."""
    _python(project, "-m", "pytest", "-p", "no:cacheprovider", *arguments)


def _python(folder: Path, *arguments: str) -> str:
    """Run Python with all bytecode kept, as it is where something is installed."""
    root = Path(__file__).parent.parent.parent
    path = os.pathsep.join(filter(None, [str(root), str(folder), os.environ.get("PYTHONPATH", "")]))
    environment = {
        **os.environ,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": path,
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
    }
    for name in ("PYTEST_ADDOPTS", "PYTHONDONTWRITEBYTECODE"):
        environment.pop(name, None)
    command = [sys.executable, *arguments]
    run = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return run.stdout


def first_use_row(rounds: int) -> Row:
    """Time that the first probe of a process takes beyond the second: its imports."""
    code = (
        "import time, torch; from examples.benchmarks.workloads import mlp; load = mlp();"
        "load.step(); load.clear(); times = [time.perf_counter()];"
        "from pytest_gradhealth import probe\n"
        "for _ in range(3):\n"
        "    probe(load.model, load.inputs, load.targets, loss=load.loss)\n"
        "    times.append(time.perf_counter())\n"
        "print(1e3 * (times[1] - times[0] - (times[3] - times[2])))"
    )
    with tempfile.TemporaryDirectory() as folder:
        _python(Path(folder), "-c", code)
        values = [float(_python(Path(folder), "-c", code)) for _ in range(rounds)]
    return Row("first probe of a run", "beyond the next ones: imports", Spread.of(values), "ms")

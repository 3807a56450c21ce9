"""What importing costs, and which module may import which."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import pytest_gradhealth
from pytest_gradhealth import errors

PACKAGE = Path(pytest_gradhealth.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}

#: Whatever takes long to import, or that no test run should need.
HEAVY = {"torch", "torchvision", "numpy", "tabulate", "jinja2"}
#: Whose models are probed, and which a probe of others has no need of.
LIBRARIES = {"lightning", "pytorch_lightning", "transformers", "torchvision", "timm", "peft"}


def python(code: str, folder: Path | None = None) -> str:
    """Run code in a Python of its own, which writes nothing of its own accord."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("COVERAGE", "COV_", "PYTEST"))
    }
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder or PACKAGE.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(code: str, before: str = "") -> set[str]:
    """The modules that code adds to those that `before` has loaded."""
    text = python(
        f"import sys, json\n{before}\nknown = set(sys.modules)\n{code}\n"
        "print(json.dumps(sorted(set(sys.modules) - known)))"
    )
    return set(json.loads(text.splitlines()[-1]))


# Start-up


def test_importing_the_plugin_adds_a_handful_of_modules() -> None:
    code = "import pytest_gradhealth, pytest_gradhealth.plugin"
    added = loaded_by(code, before="import pytest")
    assert "pytest_gradhealth.plugin" in added
    assert not added & HEAVY
    assert len(added) <= 9, sorted(added)


def test_importing_the_package_loads_nothing_else() -> None:
    added = loaded_by("import pytest_gradhealth", before="import __future__, typing")
    assert added == {"pytest_gradhealth"}


RUN = """
import json, os, sys

KINDS = ("subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.exec", "os.system")
events = []


def hook(event, arguments):
    if event in KINDS:
        events.append(event)
    elif event == "open":
        path, _, flags = arguments
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and path != os.devnull:
            events.append(f"open {path}")


sys.addaudithook(hook)
import pytest

code = pytest.main(["-q", "-s", "-p", "no:cacheprovider", *ARGUMENTS])
print()
print(json.dumps([int(code), events, sorted(sys.modules)]))
"""


class Run(NamedTuple):
    """One pytest run over one empty test: what it did, and what it had loaded at its end."""

    code: int
    events: list[str]
    modules: set[str]


def run_pytest(folder: Path, *arguments: str) -> Run:
    (folder / "test_empty.py").write_text("def test_empty():\n    pass\n")
    text = python(f"ARGUMENTS = {list(arguments)!r}\n{RUN}", folder)
    code, events, modules = json.loads(text.splitlines()[-1])
    return Run(code, events, set(modules))


@pytest.mark.parametrize("options", [[], ["--gradhealth-min-ratio=1e-4", "--strict-markers"]])
def test_a_run_without_checks_stays_light(tmp_path: Path, options: list[str]) -> None:
    run = run_pytest(tmp_path, "-p", "pytest_gradhealth.plugin", *options)
    assert run.code == 0
    assert "pytest_gradhealth.plugin" in run.modules
    assert not run.modules & HEAVY
    assert run.events == []
    ours = {name for name in run.modules if name.startswith("pytest_gradhealth")}
    assert len(ours) <= 18, sorted(ours)


def test_a_run_without_models_loads_nothing_of_them(tmp_path: Path) -> None:
    run = run_pytest(tmp_path, "-p", "pytest_gradhealth.plugin")
    ours = {name for name in run.modules if name.startswith("pytest_gradhealth")}
    assert not {name for name in ours if ".specs" in name or ".plugin.model" in name}
    assert "pytest_gradhealth.plugin.paths" not in ours


def test_to_read_specs_takes_no_torch_and_their_sources_no_library() -> None:
    added = loaded_by("from pytest_gradhealth.specs.spec import parse\nparse('timm:resnet18')")
    assert "pytest_gradhealth.specs.spec" in added
    assert not added & HEAVY
    added = loaded_by("import pytest_gradhealth.specs.plan")
    assert "pytest_gradhealth.specs.timm_models" in added
    assert not {name.partition(".")[0] for name in added} & {*LIBRARIES, "pytest", "_pytest"}


@pytest.mark.parametrize(
    ("plugin", "event", "module"),
    [
        ("import torch", "", "torch"),
        ("open('mark', 'w').close()", "open mark", ""),
        ("import os\nos.close(os.open('mark', os.O_CREAT | os.O_WRONLY))", "open mark", ""),
        ("import os\nos.fork() or os._exit(0)", "os.fork", ""),
        ("import os\nos.system('')", "os.system", ""),
        (
            "import subprocess, sys\nsubprocess.run([sys.executable, '-c', ''])",
            "subprocess.Popen",
            "",
        ),
    ],
    ids=["torch", "open", "os.open", "fork", "system", "subprocess"],
)
def test_a_heavier_plugin_would_be_noticed(
    tmp_path: Path, plugin: str, event: str, module: str
) -> None:
    (tmp_path / "tiny_plugin.py").write_text(plugin)
    run = run_pytest(tmp_path, "-p", "tiny_plugin")
    assert run.code == 0
    if event:
        assert event in run.events
    if module:
        assert module in run.modules & HEAVY


# What is heavy is not imported before it is used


@pytest.mark.parametrize(
    "module", ["distributed.team", "remedies.remedy", "plugin.explain", "plugin.fixture"]
)
def test_what_is_asked_of_every_test_loads_no_torch(module: str) -> None:
    added = loaded_by(f"import pytest_gradhealth.{module}")
    assert f"pytest_gradhealth.{module}" in added
    assert not added & HEAVY


def test_the_assertions_load_no_pytest() -> None:
    added = loaded_by("from pytest_gradhealth import assertions")
    assert "torch" in added
    assert not added & {"pytest", "_pytest", "torchvision", "tabulate", "jinja2"}


def test_a_failure_and_its_remedies_do_without_the_compiler_of_torch() -> None:
    """Its import, and that of the algebra for its shapes, takes longer than all the rest."""
    added = loaded_by(
        "from torch import nn\n"
        "from pytest_gradhealth import GradientHealthError, assert_healthy\n"
        "deep = [layer for _ in range(12) for layer in (nn.Linear(4, 4), nn.Sigmoid())]\n"
        "x, y = torch.randn(8, 4), torch.randn(8, 1)\n"
        "for made in (None, torch.optim.SGD):\n"
        "    try:\n"
        "        assert_healthy(nn.Sequential(*deep, nn.Linear(4, 1)), x, y, optimizer=made,\n"
        "                       loss=nn.functional.mse_loss, remedy_budget=1)\n"
        "    except GradientHealthError as error:\n"
        "        assert error.diagnosis.treatments\n"
        "    else:\n"
        "        raise AssertionError('it passes')\n"
        "try:\n"
        "    assert_healthy(nn.Linear(4, 1), x, y, loss=lambda o, t: (o - t).mul(0).log().mean())\n"
        "except GradientHealthError as error:\n"
        "    assert 'log of 0' in str(error), error\n",
        before="import torch",
    )
    assert "pytest_gradhealth.remedies.trial" in added
    assert not {name.partition(".")[0] for name in added} & {"sympy", "mpmath"}
    assert not {name for name in added if name.startswith(("torch._dynamo", "torch._inductor"))}


class Import(NamedTuple):
    """An import statement: what it names, and whether it runs when its module is imported."""

    name: str
    at_import: bool


def imports(source: str) -> Iterator[Import]:
    """Every module that a source imports, those for the type checker alone left out."""
    yield from _imports(ast.parse(source), at_import=True)


def _imports(node: ast.AST, at_import: bool) -> Iterator[Import]:
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        for statement in node.orelse:
            yield from _imports(statement, at_import)
        return
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, at_import) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        parent = "." * node.level + (node.module or "")
        yield Import(parent, at_import)
        yield from (Import(f"{parent}.{alias.name}", at_import) for alias in node.names)
    inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    for child in ast.iter_child_nodes(node):
        yield from _imports(child, at_import and not inside)


@cache
def imports_of(module: str) -> set[Import]:
    return set(imports(MODULES[module].read_text()))


def importers(name: str, *, at_import: bool | None = None) -> set[str]:
    """The package's modules that import `name` or something in it."""
    return {
        module.removeprefix("pytest_gradhealth.")
        for module in MODULES
        for found in imports_of(module)
        if (found.name == name or found.name.startswith(f"{name}."))
        and at_import in (None, found.at_import)
    }


def test_imports_are_found_where_they_are() -> None:
    source = """
import a.b
from c import d
if TYPE_CHECKING:
    import never
else:
    import e
try:
    import f
except ImportError:
    from . import g
class A:
    import h
    def method(self):
        import i
"""
    found = set(imports(source))
    assert {name for name, at_import in found if at_import} == {
        *("a.b", "c", "c.d", "e", "f", ".", "..g", "h")
    }
    assert {name for name, at_import in found if not at_import} == {"i"}


@pytest.mark.parametrize("name", ["tabulate", "jinja2", "numpy", "torchvision", "subprocess"])
def test_what_is_heavy_is_imported_in_functions_if_at_all(name: str) -> None:
    assert importers(name, at_import=True) == set()
    if name == "tabulate":
        assert importers(name) == {"formatting"}
    if name == "torchvision":
        assert importers(name) == set()


# Lazy names


def test_every_public_name_resolves_to_its_home() -> None:
    for name in pytest_gradhealth.__all__:
        value = getattr(pytest_gradhealth, name)
        home = sys.modules[f"pytest_gradhealth.{pytest_gradhealth._HOME_OF.get(name, 'errors')}"]
        assert value is getattr(home, name)
        assert value.__doc__


def test_dir_lists_the_public_names() -> None:
    assert dir(pytest_gradhealth) == sorted(pytest_gradhealth.__all__)
    assert len(set(pytest_gradhealth.__all__)) == len(pytest_gradhealth.__all__)


@pytest.mark.parametrize("name", ["assert_no_vanish", "torch", "__path_", "NoSuchError"])
def test_an_unknown_name_is_an_attribute_error(name: str) -> None:
    message = f"module 'pytest_gradhealth' has no attribute '{name}'"
    with pytest.raises(AttributeError, match=message):
        getattr(pytest_gradhealth, name)
    assert not hasattr(pytest_gradhealth, name)


def test_the_names_for_the_type_checker_are_those_that_are_loaded() -> None:
    tree = ast.parse(MODULES["pytest_gradhealth"].read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    twin = {
        alias.asname: f"{node.module}.{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes = pytest_gradhealth._HOME_OF
    assert twin.pop(None) == "pytest_gradhealth.errors.*"
    assert twin == {name: f"pytest_gradhealth.{home}.{name}" for name, home in homes.items()}
    assert sorted([*homes, *errors.__all__]) == pytest_gradhealth.__all__
    assert {"ProbeError", "CannotApplyError", "UnusedParameterError"} < {*errors.__all__}


def test_names_are_loaded_when_they_are_used_and_not_before() -> None:
    light = [
        name
        for name, home in pytest_gradhealth._HOME_OF.items()
        if home not in ("assertions", "plugin.fixture", "probing.probe", "remedies.trial")
    ]
    added = loaded_by(f"from pytest_gradhealth import {', '.join(light)}")
    assert not added & {*HEAVY, "pytest"}


def test_a_star_imports_everything_and_a_probe_no_library() -> None:
    text = python(
        "from pytest_gradhealth import *\n"
        "import sys, torch, pytest_gradhealth\n"
        "print(sorted(set(pytest_gradhealth.__all__) - set(globals())))\n"
        "probe(torch.nn.Linear(3, 2), torch.randn(4, 3))\n"
        f"print(sorted({{name.partition('.')[0] for name in sys.modules}} & {LIBRARIES}))"
    )
    assert text == "[]\n[]\n"

"""Tests stand in the rooms of the package, and no file outgrows what one can hold in mind."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import pytest_gradhealth
from tests.helpers.size import size_of, sizes

TESTS = Path(__file__).parent
PACKAGE = Path(pytest_gradhealth.__file__).parent
#: Folders of tests that have no room of the package as their subject.
OTHERS = {"attacks", "helpers", "models", "theory", "scenarios", "docs", "examples"}


def folders(root: Path) -> set[str]:
    """The packages in a folder, by name."""
    return {path.parent.name for path in root.glob("*/__init__.py")}


def imported_by(source: str) -> set[str]:
    """The modules that a file imports, and what it takes from packages, by their full names."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def names_a_test_file(module: str) -> bool:
    return any(part.startswith("test_") for part in module.split("."))


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        ("from tests.rules.test_vanishing import codes", True),
        ("from tests.rules import test_vanishing", True),
        ("from .test_vanishing import codes", True),
        ("def late():\n    import tests.rules.test_vanishing", True),
        ("from tests.helpers.nets import mlp\nimport torch", False),
    ],
)
def test_imports_from_test_files_are_seen(source: str, caught: bool) -> None:
    assert any(map(names_a_test_file, imported_by(source))) == caught


def test_no_file_imports_from_a_test_file() -> None:
    found = {
        (path.relative_to(TESTS).as_posix(), module)
        for path in TESTS.rglob("*.py")
        for module in imported_by(path.read_text(encoding="utf-8"))
        if names_a_test_file(module)
    }
    assert found == set()


def test_every_folder_is_a_room_or_one_of_the_others() -> None:
    assert folders(TESTS) - OTHERS <= folders(PACKAGE)
    assert folders(TESTS) >= OTHERS
    with_tests = {path.parent for path in TESTS.rglob("test_*.py")} - {TESTS}
    assert {path.name for path in with_tests} <= folders(TESTS)


def test_code_proper_is_told_from_what_surrounds_it(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    source = '"""One.\n\nTwo."""\nimport os\n\n# three\n\n\n'
    path.write_text(source + 'def f(\n    x,\n):\n    """Four."""\n    return os\n')
    assert size_of(path) == (path, 13, 4, "f", 5)


def test_every_file_can_be_held_in_mind() -> None:
    measured = sizes()
    assert len(measured) > 100
    assert [size.path.name for size in measured if size.lines > 330] == []
    assert [(size.path.name, size.function) for size in measured if size.longest > 60] == []


def test_the_map_in_the_contributing_guide_names_every_room() -> None:
    guide = (TESTS.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [row.split("|")[1] for row in guide.splitlines() if row.startswith("| `")]
    named = {name.strip("/") for row in rows for name in re.findall(r"`([\w./]+)`", row)}
    top = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    assert named == folders(PACKAGE) | top

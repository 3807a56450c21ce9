"""How large the package is: lines of code proper, by file and function.

`python -m tests.helpers.size` prints the sum, and the largest files.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest_gradhealth

PACKAGE = Path(pytest_gradhealth.__file__).parent
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Size(NamedTuple):
    """A file: all its lines, its code proper, and the longest of its functions."""

    path: Path
    lines: int
    code: int
    function: str
    longest: int


def size_of(path: Path) -> Size:
    """Measure a file; code proper is what is no docstring, comment, import or blank line."""
    text = path.read_text(encoding="utf-8")
    tree, lines = ast.parse(text), text.splitlines()
    other = {n for node in ast.walk(tree) for n in _lines_of_no_code(node)}
    code = [
        number
        for number, line in enumerate(lines, start=1)
        if number not in other and line.strip() and not line.strip().startswith("#")
    ]
    functions = [node for node in ast.walk(tree) if isinstance(node, _DOCUMENTED[2:])]
    longest = max(functions, key=_length, default=None)
    name, length = ("", 0) if longest is None else (longest.name, _length(longest))
    return Size(path, len(lines), len(code), name, length)


def _length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _lines_of_no_code(node: ast.AST) -> Iterator[int]:
    if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        node = node.body[0]
    elif not isinstance(node, (ast.Import, ast.ImportFrom)):
        return
    assert isinstance(node, ast.stmt)
    yield from range(node.lineno, (node.end_lineno or node.lineno) + 1)


def sizes() -> list[Size]:
    """All files of the package, the largest first."""
    return sorted(map(size_of, PACKAGE.rglob("*.py")), key=lambda size: -size.code)


if __name__ == "__main__":
    found = sizes()
    print(f"{sum(size.code for size in found)} lines of code in {len(found)} files")
    for size in found[:10]:
        print(f"{size.code:6} {size.path.relative_to(PACKAGE)}")

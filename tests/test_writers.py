"""Whatever the package has printed goes through the one function that makes names harmless."""

from __future__ import annotations

import ast
import builtins
import io
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import pytest_gradhealth
from pytest_gradhealth import errors
from tests.helpers.runs import SICK

PACKAGE = Path(pytest_gradhealth.__file__).parent
#: Where text is handed on to be printed or written. `reporting/` makes what is written to files.
DOORS = {"plugin/output.py", "baseline/store.py", "reporting/files.py", "files.py"}

#: Functions that print, or that pytest and Python print what they are given of.
SINKS = {"print", "UsageError", "getLogger", "showwarning", "breakpoint"}
#: Methods and functions of modules that do: of pytest, its reporter, files, warnings, exceptions.
METHODS = {
    *("write", "writelines", "write_line", "write_sep", "write_raw", "line", "sep", "section"),
    *("rewrite", "ensure_newline", "write_text", "write_bytes", "UsageError", "getLogger"),
    *("fail", "skip", "exit", "xfail", "importorskip", "warn", "warn_explicit", "showwarning"),
    *("add_note", "add_report_section", "issue_config_time_warning", "record_property"),
}
#: Attributes that somebody prints what is put into.
SHOWN = {"shouldfail", "shouldstop", "user_properties", "longrepr", "sections"}
STREAMS = {"stdout", "stderr", "__stdout__", "__stderr__"}
#: What makes text harmless, or asks a stream for its encoding only.
SAFE = {"harmless", "properties", "encodable"}


def name_of(node: ast.expr) -> str:
    return getattr(node, "id", getattr(node, "attr", ""))


def is_safe(node: ast.expr) -> bool:
    """Whether no name can be in a text, or it went through what makes names harmless."""
    return isinstance(node, ast.Constant) or (
        isinstance(node, ast.Call) and name_of(node.func) in SAFE
    )


def writers(tree: ast.AST) -> Iterator[str]:
    """The places where text goes out that nobody has looked at."""
    asked = {
        id(argument)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and name_of(node.func) == "encodable"
        for argument in node.args
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            known = METHODS if isinstance(node.func, ast.Attribute) else SINKS
            if name_of(node.func) in known and not all(map(is_safe, node.args)):
                yield f"{node.lineno}: {name_of(node.func)}"
        elif isinstance(node, (ast.Assign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            put = [t.attr for t in targets if isinstance(t, ast.Attribute) and t.attr in SHOWN]
            if put and not is_safe(node.value):
                yield f"{node.lineno}: {put[0]}"
        elif isinstance(node, ast.Attribute) and node.attr in STREAMS and id(node) not in asked:
            yield f"{node.lineno}: {node.attr}"


def own_exceptions(tree: ast.AST) -> Iterator[str]:
    """Exceptions that are none of `errors`, whose text nobody looks at; private ones are caught."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            kinds = [getattr(builtins, name_of(base), None) for base in node.bases]
            if any(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
                yield node.name


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        ("print(name)", ["1: print"]),
        ("print()", []),
        ("reporter.write_line(name)", ["1: write_line"]),
        ("reporter.section('all of it')", []),
        ("reporter.section(f'all of {name}')", ["1: section"]),
        ("reporter._tw.line(name)", ["1: line"]),
        ("raise pytest.UsageError(str(error))", ["1: UsageError"]),
        ("raise UsageError(text)", ["1: UsageError"]),
        ("pytest.fail(text, pytrace=False)", ["1: fail"]),
        ("pytest.fail(harmless(text), pytrace=False)", []),
        ("pytest.skip('switched off')", []),
        ("warnings.warn(text)", ["1: warn"]),
        ("error.add_note(text)", ["1: add_note"]),
        ("session.shouldfail = text", ["1: shouldfail"]),
        ("session.shouldfail = harmless(text)", []),
        ("report.user_properties += found", ["1: user_properties"]),
        ("sys.stderr.write(text)", ["1: write", "1: stderr"]),
        ("print(text, file=sys.stderr)", ["1: print", "1: stderr"]),
        ("say = sys.stdout.write", ["1: stdout"]),
        ("encodable(text, sys.stdout)", []),
        ("path.write_text(text)", ["1: write_text"]),
    ],
)
def test_writers_are_seen(source: str, caught: list[str]) -> None:
    assert sorted(writers(ast.parse(source))) == sorted(caught)


def test_names_leave_the_process_through_one_door() -> None:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if place not in DOORS and (lines := [*writers(tree)]):
            found[place] = lines
        if place != "errors.py" and (classes := [*own_exceptions(tree)]):
            found[place] = classes
    assert found == {}


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", ""])
def test_what_is_printed_can_be(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding, newline="") if encoding else None
    diagnosis = replace(SICK, model="größe \u5c64 \ud800")
    with monkeypatch.context() as patch:  # "" is a standard output that is closed
        patch.setattr(sys, "stdout", stream)
        print(diagnosis)
        print(errors.ProbeError(diagnosis.model))
        shown = str(diagnosis)
    if stream is not None:
        stream.seek(0)
        assert stream.read() == f"{shown}\n{told(encoding)}\n"
    assert f"{told(encoding)} on cpu" in shown


def told(encoding: str) -> str:
    shown = {"ascii": r"gr\xf6\xdfe \u5c64 ?", "latin-1": r"größe \u5c64 ?"}
    return shown.get(encoding, "größe \u5c64 ?")


@pytest.mark.parametrize("name", errors.__all__)
def test_no_error_says_what_does_harm(name: str) -> None:
    said = "the layer \x1b[2J\x9b\u202e\ud800 is\r\n  ::error file=a::b\n##[group]\t##vso[task]"
    error = getattr(errors, name)(said)
    told = "the layer ?[2J??? is\n  ?:error file=a::b\n#?[group]\t#?vso[task]"
    assert str(error) == told
    assert f"{type(error)(told)}" == told
    assert error.args[0] == said

"""The README is short, says what is so, and leads to pages that there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from examples import readme
from pytest_gradhealth.plugin.fixture import GradHealth
from pytest_gradhealth.rules.page import HOME

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = re.findall(r"^python3 -m venv .*$", README, flags=re.MULTILINE)


def test_the_gate_runs_exactly_the_test_command_with_checks_before_the_tests() -> None:
    _, test_command = COMMANDS
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    install, *checks, tests = [line for line in lines if ".venv/bin/" in line and line[0] != " "]
    assert f"{install.replace(' --no-compile', '')} && {tests}" == test_command
    assert tests == lines[-1]
    assert checks == [
        ".venv/bin/python -m sphinx -q -W docs docs/_build &",
        ".venv/bin/ruff check .",
        ".venv/bin/ruff format --check .",
        ".venv/bin/mypy",
        ".venv/bin/lint-imports",
    ]
    assert 'wait "$docs"' in lines


def test_the_contributing_guide_names_the_same_test_command() -> None:
    assert COMMANDS[1] in (ROOT / "CONTRIBUTING.md").read_text()


def test_it_is_read_in_a_few_minutes() -> None:
    assert len(README.encode()) <= 8 * 1024


@pytest.mark.parametrize("name", ["rules", "quiet", "cost", "wrong", "short"])
def test_what_comes_from_a_command_is_up_to_date(name: str) -> None:
    made = readme.short(readme.block("failure")) if name == "short" else readme.TABLES[name]()
    assert f"<!-- {name} -->\n" in README
    assert readme.with_blocks(README, **{name: made}) == README


def test_all_links_lead_to_pages_wherever_it_is_read() -> None:
    links = re.findall(r"\]\(([^)]*)\)", README)
    assert len(links) > 20
    for link in links:
        page = link.removeprefix(f"{HOME}/").partition("#")[0].removesuffix(".html")
        assert link.startswith(f"{HOME}/"), link
        assert page.startswith("rules/") or (ROOT / "docs" / f"{page or 'index'}.md").exists(), link


def test_its_test_passes(gradhealth: GradHealth) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    scope: dict[str, Any] = {}
    exec(code, scope)
    (test,) = [scope[name] for name in scope if name.startswith("test_")]
    test(gradhealth)


def test_the_addresses_of_the_package_are_those_of_its_pages() -> None:
    lines = (ROOT / "pyproject.toml").read_text("utf-8").splitlines()
    assert f'Documentation = "{HOME}/"' in lines
    assert f'Changelog = "{HOME}/changelog.html"' in lines
    assert f"url: {HOME}/" in (ROOT / ".github" / "CITATION.cff").read_text().splitlines()

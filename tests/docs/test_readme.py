"""The README says what is so: its commands, its options, and the output it shows."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from examples import readme
from pytest_gradhealth.config.options import OPTIONS, Option
from pytest_gradhealth.remedies import built_in_remedies
from pytest_gradhealth.rules import built_in_rules
from tests.helpers.projects import run
from tests.helpers.remedies import cures

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^python3 -m venv .*$", README, flags=re.MULTILINE)


def test_the_gate_runs_exactly_the_test_command_with_lint_and_types_before_the_tests() -> None:
    _, test_command = COMMANDS
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    install, *checks, tests = [line for line in lines if ".venv/bin/" in line and line[0] != " "]
    assert f"{install.replace(' --no-compile', '')} && {tests}" == test_command
    assert tests == lines[-1]
    assert checks == [
        ".venv/bin/ruff check .",
        ".venv/bin/ruff format --check .",
        ".venv/bin/mypy",
        ".venv/bin/lint-imports",
    ]


def test_the_contributing_guide_names_the_same_test_command() -> None:
    assert COMMANDS[1] in (ROOT / "CONTRIBUTING.md").read_text()


def test_the_table_of_settings_is_that_of_the_options() -> None:
    assert f"<!-- settings -->\n{readme.settings()}\n<!-- /settings -->" in README


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_option_has_its_row(option: Option) -> None:
    flag = option.flag if option.is_switch else f"{option.flag}="
    assert any(
        f"`{option.key}`" in row and flag in row and f"`{option.name}=" in row
        for row in README.splitlines()
        if row.startswith("| `")
    )


def test_every_option_of_a_run_has_its_row() -> None:
    config = pytest.Config.fromdictargs({}, [])
    options = run_flags(config)
    assert "--gradhealth-json" in options
    assert "--gradhealth-fail-on" in options
    rows = [row for row in README.splitlines() if row.startswith("| `--")]
    for flag, key in options.items():
        (row,) = [row for row in rows if re.match(rf"\| `{flag}[=`].*\|.*\|.*\|", row)] or [""]
        assert row, flag
        assert (f"`{key}`" in row) == (key in config._parser._inidict), flag


def run_flags(config: pytest.Config) -> dict[str, str]:
    """The options that are no settings of a test, with the ini keys that they could have."""
    settings = {option.flag for option in OPTIONS}
    groups: Any = config._parser._groups
    flags = [flag for group in groups for option in group.options for flag in option.names()]
    ours = [flag for flag in flags if "gradhealth" in flag and flag not in settings]
    return {flag: flag.lstrip("-").replace("-", "_") for flag in ours}


def test_every_rule_has_its_row() -> None:
    for rule in built_in_rules():
        assert f"| {rule.code} | {rule.name} |" in README


def names_in(cell: str) -> list[str]:
    return [name.strip().removesuffix(" init") for name in cell.split(",")]


def test_every_remedy_has_its_row_with_its_symptoms() -> None:
    rows = [
        row for row in README.splitlines() if row.startswith("| ") and "GH" in row.split("|")[-2]
    ]
    for remedy in built_in_remedies():
        word = remedy.name.removesuffix(" init")
        (row,) = [row for row in rows if word in names_in(row.split("|")[1])] or [""]
        assert row.split("|")[-2].strip() == ", ".join(sorted(remedy.symptoms)), remedy.name


#: What was tried on copies: how far a training gets in its time is for the machine to say.
TRIED = re.compile(r"\ntried on copies.*?(?=\n=====|\Z)", re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])x?\d+(?:\.\d+)?(?:e[+-]\d+)?(?![\w.])")


def resembles(shown: str, real: str) -> bool:
    """Whether two outputs are the same but for times, and for the last digits of numbers."""

    def numbers(text: str) -> list[float]:
        return [float(number.lstrip("x")) for number in NUMBER.findall(text)]

    def words(text: str) -> list[str]:
        text = re.sub(r"in \d+\.\d+s|#+|=+", "", text)
        return NUMBER.sub("N", text).split()

    # The column of milliseconds is the one before the model's.
    shown, real = (re.sub(r" +\d+(  [A-Z]\w+ +\.\.)", r"\1", text) for text in (shown, real))
    if not has_same_trials(shown, real):
        return False
    shown, real = TRIED.sub("", shown), TRIED.sub("", real)
    timeless = [re.sub(r"in \d+\.\d+s", "", text) for text in (shown, real)]
    return words(shown) == words(real) and numbers(timeless[0]) == pytest.approx(
        numbers(timeless[1]), rel=0.2
    )


def has_same_trials(shown: str, real: str) -> bool:
    """Whether all remedies are shown that were tried here, those cured as such, with their code."""
    parts = [TRIED.search(text) for text in (shown, real)]
    if None in parts:
        return parts == [None, None]
    here, there = (part[0] for part in parts if part)
    tried = re.sub(r"\nuntried:.*?(?=\n\n|\Z)", "", there, flags=re.DOTALL)
    codes, code = cures(here), cures(there)
    cured = set(re.findall(r"^(\S.*?) +cured", tried, re.MULTILINE))
    return (
        _named(tried) <= _named(here) <= _named(there)
        and set() < cured <= set(re.findall(r"^(\S.*?) +cured", here, re.MULTILINE))
        and all(codes[name] == code[name] for name in codes.keys() & code.keys())
    )


def _named(text: str) -> set[str]:
    """The remedies that a text names."""
    unwrapped = " ".join(text.split())
    return {remedy.name for remedy in built_in_remedies() if remedy.name in unwrapped}


def test_resemblance_can_fail() -> None:
    shown = "failure  x3.1e-09  3  12  Net  ..a.py\n1 passed in 1.2s"
    assert resembles(shown, "failure x3e-09 3 99  Net  ..a.py\n1 passed in 3.4s")
    assert not resembles(shown, shown.replace("e-09", "e-08"))
    assert not resembles(shown, shown.replace("failure", "healthy"))
    assert not resembles(shown, shown.replace("1 passed", "2 passed"))
    tried = "a\ntried on copies\nReLU  cured  x0.5\nGELU  cured  x0.03\n===== end"
    assert resembles(tried, tried.replace("ReLU  cured  x0.5", "ReLU  cured  x0.1"))
    assert not resembles(tried, "a\n===== end")
    assert not resembles(tried, tried.replace("cured", "better"))
    assert not resembles(tried.replace("ReLU  cured", "ReLU  better"), tried)
    assert not resembles(tried, tried.replace("\nGELU  cured  x0.03", ""))
    cut = tried.replace("\nGELU  cured  x0.03", "\n\nuntried: GELU, SELU: no time was left")
    assert resembles(tried, cut)
    coded = tried.replace("=====", "write (ReLU):\n    model = nn.ReLU()\n=====")
    assert resembles(coded, coded)
    assert not resembles(coded, coded.replace("nn.ReLU()", "nn.ReLU(True)"))


@pytest.fixture
def _printed_here(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the examples run in this process, which has loaded torch."""
    pytest.importorskip("torchvision")
    for name, value in {"COLUMNS": "100", "PY_COLORS": "0"}.items():
        monkeypatch.setenv(name, value)
    for name in ("GITHUB_ACTIONS", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(name, raising=False)

    def output(*arguments: str, cwd: Path = ROOT) -> str:
        monkeypatch.chdir(cwd)
        return run(pytester, *arguments).stdout.str()

    monkeypatch.setattr(readme, "pytest_output", output)


@pytest.mark.usefixtures("_printed_here")
def test_the_report_in_the_readme_is_what_the_examples_print() -> None:
    assert resembles(readme.block(README, "report"), readme.report())


@pytest.mark.usefixtures("_printed_here")
def test_the_failure_in_the_readme_is_what_the_example_prints() -> None:
    assert resembles(readme.block(README, "failure"), readme.failure())


@pytest.mark.usefixtures("_printed_here")
def test_the_regression_in_the_readme_is_what_its_test_prints() -> None:
    assert resembles(readme.block(README, "regression"), readme.regression())


@pytest.mark.parametrize("place", ["github", "gitlab"])
def test_the_job_in_the_readme_works(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    yaml: Any = pytest.importorskip("yaml")
    found = re.search(rf"<!-- {place} -->\n```yaml\n(.*?)```", README, re.DOTALL)
    assert found is not None
    job = yaml.safe_load(found[1])
    if place == "github":
        steps = job["jobs"]["gradients"]["steps"]
        commands = [step["run"] for step in steps if "run" in step]
    else:
        commands = job["gradients"]["script"]
    (command,) = [command for command in commands if command.startswith("pytest")]
    pytester.makepyfile(
        """
        import torch

        def test_it(gradhealth):
            torch.manual_seed(0)
            gradhealth.assert_matches_baseline(torch.nn.Linear(4, 2), torch.ones(8, 4))
        """
    )
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pytester.path / "summary.md"))
    ran = run(pytester, *shlex.split(os.path.expandvars(command))[1:])
    assert ran.ret == pytest.ExitCode.TESTS_FAILED, ran.stderr.str()
    assert "MissingBaselineError" in ran.stdout.str()
    assert Path("gradients.html").exists()
    assert Path("summary.md").exists() == (place == "github")
    assert Path("junit.xml").exists() == (place == "gitlab")


def test_the_rule_in_the_readme_works(pytester: pytest.Pytester) -> None:
    code = next(
        part for part in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "MY101" in part
    )
    pytester.makeconftest(code)
    pytester.makepyfile(
        """
        import torch
        from pytest_gradhealth import assert_healthy

        def test_it():
            assert_healthy(torch.nn.Linear(3, 3), torch.ones(2, 3), loss=lambda y: 1e4 + y.sum())
        """
    )
    result = pytester.runpytest("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the loss starts at 1e+04; limit 100 (default) [[]MY101[]]"])

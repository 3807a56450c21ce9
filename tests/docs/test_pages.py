"""The pages of the documentation say what is so: their tables, their code and what it prints."""

from __future__ import annotations

import os
import re
import runpy
import shlex
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

import pytest_gradhealth
from examples import pictures, readme
from pytest_gradhealth import Diagnosis, Finding, GradientHealthError, Run, Treatment
from pytest_gradhealth.assertions import verdict
from pytest_gradhealth.config.options import OPTIONS, Option
from pytest_gradhealth.plugin.fixture import GradHealth
from pytest_gradhealth.remedies import built_in_remedies
from pytest_gradhealth.remedies.trial import treat
from pytest_gradhealth.reporting.json_report import write_json
from pytest_gradhealth.rules import built_in_rules
from tests.helpers.libraries import library
from tests.helpers.outputs import resembles
from tests.helpers.projects import run

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in readme.pages()}
CODES = {rule.code for rule in built_in_rules()}


def text_of(page: str) -> str:
    return TEXTS[f"docs/{page}.md"]


def test_the_table_of_settings_is_that_of_the_options() -> None:
    shown = f"<!-- settings -->\n{readme.settings()}\n<!-- /settings -->"
    assert shown in text_of("settings")


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_option_has_its_row(option: Option) -> None:
    flag = option.flag if option.is_switch else f"{option.flag}="
    assert any(
        f"`{option.key}`" in row and flag in row and f"`{option.name}=" in row
        for row in text_of("settings").splitlines()
        if row.startswith("| `")
    )


def run_flags(config: pytest.Config) -> dict[str, str]:
    """The options that are no settings of a test, with the ini keys that they could have."""
    settings = {option.flag for option in OPTIONS}
    groups: Any = config._parser._groups
    flags = [flag for group in groups for option in group.options for flag in option.names()]
    ours = [flag for flag in flags if "gradhealth" in flag and flag not in settings]
    return {flag: flag.lstrip("-").replace("-", "_") for flag in ours}


def test_every_option_of_a_run_has_its_row() -> None:
    config = pytest.Config.fromdictargs({}, [])
    options = run_flags(config)
    assert "--gradhealth-json" in options
    assert "--gradhealth-fail-on" in options
    rows = [row for row in text_of("settings").splitlines() if row.startswith("| `--")]
    for flag, key in options.items():
        (row,) = [row for row in rows if re.match(rf"\| `{flag}[=`].*\|.*\|.*\|", row)] or [""]
        assert row, flag
        assert (f"`{key}`" in row) == (key in config._parser._inidict), flag


@pytest.mark.parametrize("page", TEXTS)
def test_what_is_named_there_is(page: str) -> None:
    """Options, and codes of rules: those of the package, or of an example of one's own."""
    config = pytest.Config.fromdictargs({}, [])
    known = {option.flag for option in OPTIONS} | run_flags(config).keys()
    named = set(re.findall(r"--(?:no-)?gradhealth[a-z-]*", TEXTS[page]))
    assert named - known == set()
    assert set(re.findall(r"\bGH\d{3}\b", TEXTS[page])) - CODES == set()


def test_every_rule_has_its_page_and_the_list_of_all_names_them() -> None:
    pages = runpy.run_path(str(DOCS / "conf.py"))["rule_pages"]()
    assert pages.keys() == {f"{code}.md" for code in CODES} | {"index.md"}
    for rule in built_in_rules():
        assert pages[f"{rule.code}.md"] == rule.page
        row = f"| [{rule.code}]({rule.code}.md) | {rule.name} | {rule.summary} |"
        assert row in pages["index.md"].splitlines()


def test_every_assertion_has_its_row() -> None:
    rows = [row for row in text_of("assertions").splitlines() if row.startswith("| `assert_")]
    named = {name for row in rows for name in re.findall(r"`(assert_\w+)`", row.split("|")[1])}
    assert named == {name for name in pytest_gradhealth.__all__ if name.startswith("assert_")}


def names_in(cell: str) -> list[str]:
    return [name.strip().removesuffix(" init") for name in cell.split(",")]


def test_every_remedy_has_its_row_with_its_symptoms() -> None:
    rows = [
        row
        for row in text_of("remedies").splitlines()
        if row.startswith("| ") and "GH" in row.split("|")[-2]
    ]
    for remedy in built_in_remedies():
        word = remedy.name.removesuffix(" init")
        (row,) = [row for row in rows if word in names_in(row.split("|")[1])] or [""]
        assert row.split("|")[-2].strip() == ", ".join(sorted(remedy.symptoms)), remedy.name


class Memory(nn.Module):
    """A recurrent network that remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.RNN(8, 32, batch_first=True), nn.Linear(32, 4)
        nn.init.orthogonal_(self.rnn.get_parameter("weight_hh_l0"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.rnn(x)[0][:, -1])
        return out


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))


def scope_of(page: str) -> dict[str, Any]:
    """What the code of a page takes for granted."""
    return {
        "pytest": pytest,
        "torch": torch,
        "cross_entropy": cross_entropy,
        "SGD": SGD,
        "Net": net,
        "model": Memory() if page == "docs/recurrent.md" else net(),
        "images": torch.randn(16, 8),
        "sequences": torch.randn(16, 28, 8),
        "labels": torch.arange(16) % 4,
        "l1_norm": lambda model: sum(p.abs().sum() for p in model.parameters()),
        "scaler": SimpleNamespace(get_scale=lambda: 2.0**16),
    }


#: A block of code, with the code of the rule that it fails with, if it is to fail.
CODE = re.compile(
    r"^(?:<!-- fails: (GH\d+) -->\n)?( *)```python\n(.*?)^ *```", re.MULTILINE | re.DOTALL
)


def code_of(page: str) -> list[tuple[str, str]]:
    """The blocks of a page that are code to run, those with tests of their own below apart."""
    return [
        (code, re.sub(rf"^{indent}", "", block, flags=re.MULTILINE))
        for code, indent, block in CODE.findall(TEXTS[page])
        if "conftest.py" not in block and "baseline" not in block
    ]


@pytest.mark.parametrize("page", [page for page in TEXTS if code_of(page)])
def test_the_code_of_a_page_runs(
    page: str, gradhealth: GradHealth, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("report.json").write_text(write_json(Run(())))
    scope = scope_of(page)
    for code, block in code_of(page):
        for name in [name for name in scope if name.startswith("test_")]:
            del scope[name]
        exec(compile(block, page, "exec"), scope)
        for name in [name for name in scope if name.startswith("test_")]:
            if code:
                with pytest.raises(GradientHealthError, match=code):
                    scope[name](gradhealth)
            else:
                scope[name](gradhealth)


def test_the_pages_have_code() -> None:
    pages = {page for page in TEXTS if code_of(page)}
    assert {"docs/quickstart.md", "docs/recurrent.md", "docs/training-steps.md"} <= pages
    assert {"docs/assistants.md", "docs/reports.md", "docs/low-precision.md"} <= pages


@pytest.mark.parametrize("name", ["residual", "depth"])
def test_the_pictures_show_what_a_probe_finds(name: str) -> None:
    """But for the numbers, which differ between machines in their last digits."""
    drawn = pictures.residual(pictures.residual_net()) if name == "residual" else pictures.depth()
    shown = (DOCS / "pictures" / f"{name}.html").read_text("utf-8")
    number = re.compile(r"[\d.]+(?:e-?\d+)?")
    assert number.sub("N", drawn) == number.sub("N", shown)
    assert f"pictures/{name}.html" in text_of("how-it-works")


def test_resemblance_can_fail() -> None:
    shown = "failure  x3.1e-09  3  12  Net  ..a.py\n1 passed in 1.2s"
    assert resembles(shown, "failure x3e-09 3 99  Net  ..a.py\n1 passed in 3.4s")
    assert resembles(shown, "failure x3e-09 3 99  Net  ..a.py\n1 passed in 67.83s (0:01:07)")
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


TREATED: dict[tuple[Finding, ...], tuple[Treatment, ...]] = {}


def treated_once(
    diagnosis: Diagnosis, failures: Sequence[Finding], *more: Any
) -> tuple[Treatment, ...]:
    """What came of the remedies for the same findings before: two blocks show one network."""
    key = tuple(failures)
    if key not in TREATED:
        TREATED[key] = treat(diagnosis, failures, *more)
    return TREATED[key]


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
    monkeypatch.setattr(verdict, "treat", treated_once)


@pytest.mark.usefixtures("_printed_here")
@pytest.mark.parametrize("name", ["report", "failure", "regression", "models"])
def test_what_is_shown_is_what_is_printed(name: str) -> None:
    for one in ("timm", "transformers") if name == "models" else ():
        library(one)
    assert resembles(readme.block(name), getattr(readme, name)())


@pytest.mark.parametrize("place", ["github", "gitlab"])
def test_the_job_of_a_ci_works(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    yaml: Any = pytest.importorskip("yaml")
    found = re.search(rf"<!-- {place} -->\n```yaml\n(.*?)```", text_of("ci"), re.DOTALL)
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


def test_the_rule_of_ones_own_works(pytester: pytest.Pytester) -> None:
    code = next(
        part
        for part in re.findall(r"```python\n(.*?)```", text_of("your-own"), re.DOTALL)
        if "MY101" in part
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
    page = pytester.runpytest("--gradhealth-explain=MY101").stdout.str()
    assert "The first steps go into undoing the initialisation." in page

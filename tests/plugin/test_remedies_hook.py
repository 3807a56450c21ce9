"""Remedies in a test suite: message, report, hook, settings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import pytest

import pytest_gradhealth
from pytest_gradhealth import Diagnosis, Finding, Remedy, Treatment, built_in_remedies
from pytest_gradhealth.assertions import verdict
from pytest_gradhealth.plugin import registered
from pytest_gradhealth.remedies.trial import treat
from tests.helpers.projects import run

#: What inner runs load on first use has to outlive them: torch cannot be loaded twice.
LOADED = [
    *(getattr(pytest_gradhealth, name) for name in pytest_gradhealth.__all__),
    built_in_remedies(),
]

SUITE = """
import torch
from torch import nn
from torch.nn.functional import cross_entropy

torch.set_num_threads(1)
x = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()

def sick():
    layers = []
    for inputs in [6] + [64] * 7:
        layers += [nn.Linear(inputs, 64), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(64, 3))

def test_a(gradhealth):
    torch.manual_seed(0)
    gradhealth.assert_no_vanishing(sick(), x, y, loss=cross_entropy)
"""

HOOK = """
import pytest

@pytest.hookimpl(optionalhook=True)
def pytest_gradhealth_remedies(config):
    from pytest_gradhealth import Remedy

    def change(patient):
        from torch import nn
        patient.model = nn.Sequential(nn.Linear(6, 500), nn.ReLU(), nn.Linear(500, 3))

    return [Remedy("{name}", ("GH101",), change, "model = smaller()")]
"""


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(name, raising=False)


#: What came of the same remedies for the one network of these tests.
TRIED: dict[tuple[object, ...], tuple[Treatment, ...]] = {}


#: The built-in ones that are tried here: to try all takes much longer.
FEW = ("ReLU", "LeakyReLU", "SELU", "batch norm", "residual", "Xavier init", "clip by norm")


@pytest.fixture(autouse=True)
def _few_are_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    few = tuple(remedy for remedy in built_in_remedies() if remedy.name in FEW)
    for module in (pytest_gradhealth.remedies, registered, verdict):
        monkeypatch.setattr(module, "built_in_remedies", lambda: few)

    def tried(
        diagnosis: Diagnosis, failures: Sequence[Finding], remedies: Iterable[Remedy]
    ) -> tuple[Treatment, ...]:
        remedies = [*remedies]
        budget = diagnosis.origin.settings.remedy_budget
        key = (budget, diagnosis.model, *failures, *(remedy.name for remedy in remedies))
        if key not in TRIED:
            TRIED[key] = treat(diagnosis, failures, remedies)
        return TRIED[key]

    monkeypatch.setattr(verdict, "treat", tried)


def errors(result: pytest.RunResult) -> str:
    """The lines of the failing assertions, without what pytest puts before them."""
    lines = [line for line in result.outlines if line.startswith("E ")]
    return "\n".join(line[1:].removeprefix("       ") for line in lines)


def test_a_failure_ends_with_the_code_of_what_cured(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_suite=SUITE)
    result = run(pytester, "--gradhealth-remedy-budget=60")
    result.assert_outcomes(failed=1)
    text = errors(result)
    assert re.search(r"^ReLU +cured +x\d\S* +\d\.\d -> 0\.\d+ +\d+$", text, re.MULTILINE)
    assert re.search(r"^\(as it is\) +x\S+e-0\d +1\.\d -> 1\.1 +[1-4]\d$", text, re.MULTILINE)
    assert "\nwrite (" in text
    assert text.splitlines()[-1].startswith("more:   -v shows the code of ")
    assert "try:" not in text


@pytest.mark.parametrize("columns", [80, 160])
def test_the_table_fits_the_terminal(pytester: pytest.Pytester, columns: int) -> None:
    pytester.makepyfile(test_suite=SUITE)
    result = run(pytester, "--gradhealth-remedy-budget=60")
    text = errors(result)
    table = text[text.index("remedy ") : text.index("\nwrite (")]
    assert max(map(len, table.splitlines())) <= 76


def test_without_a_budget_the_message_is_as_before(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_suite=SUITE)
    for option in ("--gradhealth-remedy-budget=0", "--override-ini=gradhealth_remedy_budget=0"):
        result = run(pytester, option)
        result.assert_outcomes(failed=1)
        text = errors(result)
        assert "tried on copies" not in text
        assert "try:" in text


@pytest.mark.parametrize("options", [[], ["-n", "1"]], ids=["alone", "xdist"])
def test_the_report_shows_what_was_tried(pytester: pytest.Pytester, options: list[str]) -> None:
    pytester.makepyfile(test_suite=SUITE)
    budget = "--gradhealth-remedy-budget=60"
    result = run(pytester, "--gradhealth-report", budget, "-q", "--tb=no", *options)
    text = "\n".join(result.outlines)
    section = text[text.index("= gradient health =") :]
    assert re.search(r"^ReLU +cured ", section, re.MULTILINE)
    assert re.search(r"^clip by norm +no effect ", section, re.MULTILINE)
    assert "write (" in section


def test_remedies_of_a_conftest_are_tried_in_its_folder(pytester: pytest.Pytester) -> None:
    for folder in ("here", "there"):
        pytester.mkdir(folder)
        (pytester.path / folder / f"test_{folder}.py").write_text(SUITE)
        (pytester.path / folder / "conftest.py").write_text(HOOK.format(name=f"smaller {folder}"))
    result = run(pytester, "here", "there", "--gradhealth-remedy-budget=60", "-v")
    result.assert_outcomes(failed=2)
    here, there = re.split(r"_{5,} test_a _{5,}", "\n".join(result.outlines))[1:]
    assert re.search(r"^E +smaller here +cured ", here, re.MULTILINE)
    assert "smaller there" not in here
    assert re.search(r"^E +smaller there +cured ", there.split("= short test")[0], re.MULTILINE)
    assert "E           model = smaller()" in here


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("None", ""),
        ("1", "pytest_gradhealth_remedies returned a int; return a list of"),
        ("[1]", "pytest_gradhealth_remedies returned a int in its list; return"),
    ],
)
def test_a_hook_that_returns_something_else_is_told(
    pytester: pytest.Pytester, returned: str, message: str
) -> None:
    pytester.makeconftest(f"def pytest_gradhealth_remedies(config): return {returned}")
    pytester.makepyfile(test_suite=SUITE)
    result = run(pytester, "--gradhealth-remedy-budget=60")
    result.assert_outcomes(failed=1)
    text = errors(result)
    assert message in text
    assert ("pytest_gradhealth.Remedy objects" in text) == bool(message)
    assert ("VanishingGradientError" in text) != bool(message)


@pytest.mark.usefixtures("_outside_pytest")
def test_the_imported_assertions_try_remedies_outside_of_tests_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(verdict, "treat", treat)
    script = SUITE.partition("def test_a")[0] + (
        "from pytest_gradhealth import VanishingGradientError, assert_no_vanishing\n"
        "torch.manual_seed(0)\n"
        "try:\n"
        "    assert_no_vanishing(sick(), x, y, loss=cross_entropy, remedy_budget=60)\n"
        "except VanishingGradientError as error:\n"
        "    print(error)\n"
        "    print('outcomes', {t.outcome for t in error.diagnosis.treatments})\n"
    )
    exec(script, {})
    shown = pytest.LineMatcher(capsys.readouterr().out.splitlines())
    shown.fnmatch_lines(["tried on copies*", "ReLU * cured *", "write (*", "outcomes *"])

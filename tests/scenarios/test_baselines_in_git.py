"""The gate as a team lives with it, played through on a scratch git repository."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

MODELS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inputs = nn.Linear(8, 16)
        self.blocks = nn.Sequential(*(self.block() for _ in range(4)))
        self.head = nn.Linear(16, 4)

    def block(self):
        return nn.Sequential(nn.Linear(16, 16), nn.ReLU())

    def forward(self, x):
        return self.head(self.blocks(torch.relu(self.inputs(x))))


class Encoder(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 4))
"""
TESTS = """
import pytest
import torch
from torch.nn.functional import cross_entropy

from models import Encoder, Net

X = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
BATCH = {"inputs": X, "targets": torch.arange(16) % 4, "loss": cross_entropy}


@pytest.mark.parametrize("model", [Net, Encoder])
def test_gradients(gradhealth, model):
    torch.manual_seed(0)
    gradhealth.assert_matches_baseline(model(), **BATCH)
"""
FILE = "__gradhealth__/test_models.json"
NET = "'test_models.py::test_gradients[[]Net[]]'"


def git(*arguments: str) -> str:
    """What a git command prints; the user is the scratch repository's own."""
    return subprocess.run(
        ["git", *arguments], check=True, capture_output=True, text=True, timeout=30
    ).stdout


def commit(message: str) -> None:
    git("add", "--all")
    git("commit", "--quiet", "--message", message)


@pytest.fixture(autouse=True)
def _repository(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository with a project in it; in CI, where nothing is written unasked."""
    monkeypatch.setenv("CI", "true")
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    try:
        git("init", "--quiet")
    except FileNotFoundError:
        pytest.skip("git is not installed")
    git("checkout", "--quiet", "-b", "main")
    git("config", "user.name", "A Tester")
    git("config", "user.email", "tester@example.invalid")
    git("config", "commit.gpgsign", "false")
    pytester.makepyfile(models=MODELS, test_models=TESTS)
    pytester.makeini("[pytest]\n")
    commit("A project")


def run(pytester: pytest.Pytester, *options: str, code: int) -> pytest.RunResult:
    result = pytester.runpytest("-p", "no:cacheprovider", *options)
    assert result.ret == code, result.stdout.str()
    assert "INTERNALERROR" not in result.stdout.str()
    return result


def changed(old: str, new: str) -> None:
    """Change the models' source."""
    source = Path("models.py").read_text()
    assert old in source
    Path("models.py").write_text(source.replace(old, new))


def changed_lines(path: str) -> int:
    added, removed, _ = git("diff", "--numstat", "HEAD", "--", path).split("\t")
    return int(added) + int(removed)


def test_the_whole_story(pytester: pytest.Pytester) -> None:
    # A baseline is written because somebody asks for it, and committed.
    result = run(pytester, code=1)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines([f"*next:   pytest {NET} --gradhealth-update"])
    assert git("status", "--porcelain") == ""
    run(pytester, "--gradhealth-update", code=0)
    assert git("status", "--porcelain") == "?? __gradhealth__/\n"
    commit("Baselines")
    run(pytester, code=0).assert_outcomes(passed=2)

    # A refactoring passes: a layer with another name, lines in another order.
    git("checkout", "--quiet", "-b", "refactoring")
    changed("self.inputs", "self.stem")
    changed("self.blocks", "self.body")
    changed("x):\n        return", "x):\n        x = self.stem(x).relu()\n        return")
    changed("torch.relu(self.stem(x))", "x")
    pytester.makepyfile(test_models=TESTS.replace("[Net, Encoder]", "[Encoder, Net]"))
    options = ("--gradhealth-fail-on=regression,missing,stale",)
    result = run(pytester, *options, code=0)
    result.assert_outcomes(passed=2)
    assert "gradient baselines" not in result.stdout.str()
    assert FILE not in git("status", "--porcelain")
    commit("A refactoring")

    # Damage on a branch fails, and the message says what to look at.
    git("checkout", "--quiet", "-b", "damage")
    changed("nn.ReLU()", "nn.Sigmoid()")
    result = run(pytester, *options, code=1)
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        [
            "E *RegressionError: x* of the gradient reaches stem (Linear), inputs (Linear) in the"
            " baseline; it was x* (it lost * decades; limit 0.5, default) [[]regression]",
            f"E *Net against test_gradients[[]Net[]] in {FILE}",
            "E *layer *step before *step now",
            "E *body.0.1 (Sigmoid) *was blocks.0.1 *x* *x*",
            f"E *accept: pytest {NET} --gradhealth-update",
            f"E *(if this is meant to be; commit the change of {FILE})",
        ]
    )
    assert git("status", "--porcelain") == " M models.py\n"

    # The command of the message makes it pass, and what it has written can be reviewed.
    found = re.search(r"accept: pytest '(\S+)' (--\S+)", result.stdout.str())
    assert found is not None
    run(pytester, *found.groups(), code=0).assert_outcomes(passed=1)
    run(pytester, *options, code=0).assert_outcomes(passed=2)
    assert git("status", "--porcelain") == f" M {FILE}\n M models.py\n"
    assert 0 < changed_lines(FILE) < 50
    difference = git("diff", "--unified=0", "--", FILE)
    assert '"layer": "stem", "type": "Linear"' in difference
    assert "Encoder" not in difference
    commit("Sigmoids, as decided")

    # What was accepted there is still damage for main.
    git("checkout", "--quiet", "main")
    changed("nn.ReLU()", "nn.Sigmoid()")
    run(pytester, *options, code=1).assert_outcomes(failed=1, passed=1)


def test_a_layer_more_is_a_few_lines_more_once_it_is_accepted(pytester: pytest.Pytester) -> None:
    run(pytester, "--gradhealth-update", code=0)
    commit("Baselines")
    changed("nn.GELU(), ", "nn.GELU(), nn.LayerNorm(32), ")
    result = run(pytester, code=1)
    result.stdout.fnmatch_lines(["E *: new on the path: 2 (64 elements; * before) [[]layers]"])
    assert git("status", "--porcelain") == " M models.py\n"
    run(pytester, "--gradhealth-update", code=0)
    assert "LayerNorm" in git("diff", "--", FILE)
    assert changed_lines(FILE) < 20


def test_one_branch_against_another_without_committed_files(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_models=TESTS.replace("assert_matches_baseline", "probe"))
    commit("Probes")
    git("checkout", "--quiet", "-b", "damage")
    changed("nn.ReLU()", "nn.Sigmoid()")
    commit("Sigmoids")
    git("checkout", "--quiet", "main")
    run(pytester, "--gradhealth-json=../main.json", code=0)
    git("checkout", "--quiet", "damage")
    result = run(pytester, "--gradhealth-compare=../main.json", code=1)
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["x* of the gradient reaches inputs (Linear); it was x* *"])
    assert git("status", "--porcelain") == ""


def test_a_conflict_in_a_baseline_is_told_and_left_to_git(pytester: pytest.Pytester) -> None:
    run(pytester, "--gradhealth-update", code=0)
    commit("Baselines")
    Path(FILE).write_text("<<<<<<< HEAD\n" + Path(FILE).read_text())
    before = Path(FILE).read_bytes()
    result = run(pytester, "--gradhealth-update", code=1)
    result.stdout.fnmatch_lines([f"E *ProbeError: {FILE} is no baseline *version control*"])
    assert Path(FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--gradhealth-fail-on=none",), 0),
        (("--gradhealth-fail-on=regression",), 0),
        (("--gradhealth-fail-on=missing",), 1),
        ((), 1),
        (("--gradhealth-fail-on=everything",), 4),
        (("--gradhealth-baseline-dir=../elsewhere",), 4),
        (("--gradhealth-max-path-change=lots",), 4),
        (("--gradhealth-nonsense",), 4),
        (("-k", "nothing_of_the_kind"), 5),
    ],
)
def test_exit_codes(pytester: pytest.Pytester, options: tuple[str, ...], code: int) -> None:
    run(pytester, *options, code=code)


def test_what_is_stale_fails_only_where_it_is_to(pytester: pytest.Pytester) -> None:
    run(pytester, "--gradhealth-update", code=0)
    pytester.makepyfile(test_models=TESTS.replace("test_gradients", "test_renamed"))
    run(pytester, "--gradhealth-fail-on=regression", code=0)
    run(pytester, "--gradhealth-fail-on=stale", code=1)
    run(pytester, "--gradhealth-update", "--gradhealth-prune", code=0)
    run(pytester, "--gradhealth-fail-on=stale,missing", code=0)

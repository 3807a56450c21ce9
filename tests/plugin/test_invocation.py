"""A report says when, of which commit and by which command it was made, and two runs stay equal."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_gradhealth import Run, read_report
from pytest_gradhealth.plugin.invocation import invocation
from pytest_gradhealth.reporting.json_report import read_json, write_json
from pytest_gradhealth.reporting.run import Invocation

TEST = """
import torch
from torch import nn

def test_net(gradhealth):
    torch.manual_seed(0)
    gradhealth.assert_healthy(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), torch.randn(8, 4))
"""


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_SHA", "CI_COMMIT_SHA", "GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)


def test_the_reports_of_a_run_say_when_of_what_and_how(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(TEST)
    monkeypatch.setenv("GITHUB_SHA", "abcdef0123456789")
    options = ["--gradhealth-json=a b.json", "--gradhealth-html=out.html", "-k", "not (a and b)"]
    assert pytester.runpytest(*options).ret == 0
    made = read_report("a b.json").invocation
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\dZ", made.date)
    assert made.commit == "abcdef0123456789"
    program, *typed = shlex.split(made.command)
    assert program == "pytest"
    assert typed[:4] == options
    page = Path("out.html").read_text(encoding="utf-8")
    header = page.partition("<header>")[2].partition("</header>")[0]
    assert made.date in header
    assert "commit abcdef012345<" in header
    assert "&#39;--gradhealth-json=a b.json&#39;" in header
    assert "abcdef" not in json.dumps(json.loads(Path("a b.json").read_text())["environment"])


def test_a_run_is_compared_with_one_by_another_command(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(TEST)
    assert pytester.runpytest("--gradhealth-json=old.json").ret == 0
    monkeypatch.setenv("CI_COMMIT_SHA", "another")
    result = pytester.runpytest("-q", "--gradhealth-compare=old.json", "--gradhealth-json=new.json")
    assert result.ret == 0
    assert "measured with" not in result.stdout.str()
    assert read_report("new.json").invocation.commit == "another"


def test_equal_runs_by_other_commands_are_equal() -> None:
    run = Run((), {"torch": "2"}, invocation=Invocation("2026-01-01T00:00Z", "a", "pytest"))
    assert run == replace(run, invocation=Invocation())
    assert read_json(write_json(run)).invocation == run.invocation
    older = {name: v for name, v in json.loads(write_json(run)).items() if name != "invocation"}
    assert read_json(json.dumps(older)).invocation == Invocation()


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_git_tells_the_commit_where_nothing_else_does(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = pytester.parseconfig("--rootdir", str(pytester.path))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(pytester.path.parent))
    assert invocation(config).commit == ""
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], [*who, "commit", "-q", "--allow-empty", "-m", "a"]):
        subprocess.run(["git", *command], cwd=pytester.path, check=True)
    head = Path(".git/HEAD").read_text().removeprefix("ref: ").strip()
    commit = invocation(config).commit
    assert len(commit) >= 4
    assert Path(".git", head).read_text().startswith(commit)
    monkeypatch.setenv("PATH", "")
    assert invocation(config).commit == ""

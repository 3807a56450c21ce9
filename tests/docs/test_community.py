"""What is there for who takes part: forms, a step for workflows, the release, the changelog."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.projects import run

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
yaml: Any = pytest.importorskip("yaml")


def read(path: str) -> Any:
    return yaml.safe_load((GITHUB / path).read_text("utf-8"))


@pytest.mark.parametrize("name", ["verdict", "bug"])
def test_a_form_of_a_fault_asks_for_the_json_report(name: str) -> None:
    fields = {part.get("id"): part for part in read(f"ISSUE_TEMPLATE/{name}.yml")["body"]}
    report = fields["report"]
    assert "--gradhealth-json=report.json" in report["attributes"]["description"]
    assert report["validations"] == {"required": True}


def test_every_form_has_what_is_shown_of_it() -> None:
    forms = sorted(path.name for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))
    for name in set(forms) - {"config.yml"}:
        form = read(f"ISSUE_TEMPLATE/{name}")
        assert form.keys() == {"name", "description", "title", "labels", "body"}
        parts = [part for part in form["body"] if part["type"] != "markdown"]
        assert all(part["attributes"]["label"] for part in parts)


def test_the_step_for_workflows_runs(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    action = read("actions/gradients/action.yml")
    step, upload = action["runs"]["steps"]
    pytester.makepyfile(
        test_one="""
        import torch

        def test_it(gradhealth):
            gradhealth.assert_matches_baseline(torch.nn.Linear(4, 2), torch.ones(8, 4))
        """,
        test_two="def test_it(): raise AssertionError",
    )
    given = {name: field["default"] for name, field in action["inputs"].items()}
    given["arguments"] = "test_one.py"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pytester.path / "summary.md"))
    for variable, value in step["env"].items():
        (name,) = re.findall(r"^\$\{\{ inputs\.([a-z-]+) \}\}$", value)
        monkeypatch.setenv(variable, given[name])
    monkeypatch.setenv("CI", "true")
    ran = run(pytester, *shlex.split(os.path.expandvars(step["run"]))[1:])
    ran.assert_outcomes(failed=1)
    assert "MissingBaselineError" in ran.stdout.str()
    assert {path.name for path in pytester.path.iterdir()} >= {"summary.md", "gradients.html"}
    assert upload["with"]["path"] == "${{ inputs.report }}"


def test_a_release_is_published_without_a_secret_of_ours_and_attested() -> None:
    jobs = read("workflows/release.yml")["jobs"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert jobs["publish"]["needs"] == "build"
    uses = [step.get("uses", "") for step in jobs["build"]["steps"]]
    assert any(use.startswith("actions/attest-build-provenance@") for use in uses)
    assert "secrets." not in (GITHUB / "workflows" / "release.yml").read_text("utf-8")
    assert [step.get("run") for step in jobs["build"]["steps"]].count(".ci/run") == 1


def test_fragments_make_a_changelog(tmp_path: Path) -> None:
    pytest.importorskip("towncrier")
    for name in ("pyproject.toml", "CHANGELOG.md"):
        (tmp_path / name).write_text((ROOT / name).read_text("utf-8"), "utf-8")
    folder = tmp_path / "docs" / "changes"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("how to")
    (folder / "rules.added.md").write_text("A rule of its own.\n")
    command = [sys.executable, "-m", "towncrier", "build", "--yes", "--version", "9.9"]
    subprocess.run([*command, "--date", "2030-01-01"], cwd=tmp_path, check=True)
    text = (tmp_path / "CHANGELOG.md").read_text("utf-8")
    assert text.startswith(
        "# Changelog\n\n<!-- changes start -->\n\n## 9.9 (2030-01-01)\n\n### Added\n\n"
        "- A rule of its own."
    )
    assert [path.name for path in folder.iterdir()] == ["README.md"]

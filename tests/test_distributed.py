"""Models that several processes share, under torchrun on one machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pytest_gradhealth.ranks import rank

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="this torch has no torch.distributed with gloo",
)


def test_under_torchrun_all_processes_agree(tmp_path: Path) -> None:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("COVERAGE", "COV_", "PYTEST"))
    }
    environment |= {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--log-dir", str(tmp_path / "logs"), "--redirects", "3"]
    command += ["-m", "pytest", "-p", "no:cacheprovider", "--gradhealth-report", "-W", "default"]
    command += ["--rootdir", str(tmp_path), str(ROOT / "tests" / "distributed_models.py")]
    ended = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    logs = sorted((tmp_path / "logs").rglob("stdout.log"))
    texts = [log.read_text() for log in logs]
    assert ended.returncode == 0, "\n".join([ended.stdout, ended.stderr, *texts])
    assert len(texts) == 2
    for text in texts:
        assert " passed" in text
        assert "failed" not in text
    assert ["= gradient health =" in text for text in texts] == [True, False]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, 0),
        ({"RANK": "0"}, 0),
        ({"RANK": "3"}, 3),
        ({"SLURM_PROCID": "2"}, 2),
        ({"OMPI_COMM_WORLD_RANK": "1"}, 1),
        ({"RANK": "first"}, 0),
    ],
)
def test_the_rank_is_what_the_launcher_says(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: int
) -> None:
    for name in ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert rank() == expected


@pytest.mark.parametrize("variable", [None, "0", "1"])
def test_the_first_process_alone_reports(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    if variable is not None:
        monkeypatch.setenv("RANK", variable)
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest("--gradhealth-report")
    assert ("gradient health" in result.stdout.str()) == (variable != "1")

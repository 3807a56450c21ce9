"""Ranks fail together, with one message, and the first of them reports."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pytest_gradhealth.distributed.rank import rank
from tests.helpers.ranks import CONFTEST, PICKY, Ended, Run, errors, passed, torchrun

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="torch.distributed with gloo is not available",
)


EMPTY = "the batch is empty: the first input has shape (0, 16); pass at least one example"
LEFT = (
    "rank 1 left this test without coming to this check; every rank has to run the same checks of"
    " a model that they share, in the same order"
)


@pytest.mark.parametrize(
    ("test", "first", "second"),
    [
        ("test_error_on_one_rank", f"on rank 1: {PICKY}", PICKY),
        ("test_bad_inputs_on_one_rank", EMPTY, f"on rank 0: {EMPTY}"),
        (
            "test_factory",
            "the model factory returned a DistributedDataParallel that several processes share,"
            " which not every process may build as often; build it once, on every rank, and pass"
            " it",
            "",
        ),
        (
            "test_replicate",
            "Sequential is wrapped by replicate(), whose reducer counts every backward; wrap it in"
            " DistributedDataParallel, or probe the model before it is replicated",
            "",
        ),
        (
            "test_nested",
            "1 is a DistributedDataParallel inside the model; wrap the whole model, or probe 1 by"
            " itself",
            "",
        ),
    ],
)
def test_an_error_on_a_rank_is_told_on_all(ddp: Run, test: str, first: str, second: str) -> None:
    assert errors(ddp, test) == (first, second or first)


def test_a_rank_that_fails_before_a_check_leaves_nobody_waiting(ddp: Run) -> None:
    first, second = ddp.tests["test_failure_before_the_check_on_one_rank"]
    assert first == Ended("failed", f"pytest_gradhealth.ProbeError: {LEFT}")
    assert second.outcome == "failed"
    assert second.message.startswith("assert 1 == 0")


def test_the_report_is_written_on_rank_0_only(ddp: Run) -> None:
    assert ddp.output.count(" gradient health ") == 1


def test_the_baseline_is_written_on_rank_0_only(ddp: Run) -> None:
    passed(ddp, "test_baseline")
    line = "wrote __gradhealth__/test_shared.json: new: test_baseline"
    assert ddp.output.count(line) == 1


PLAIN = """
import torch


def test_plain(gradhealth):
    gradhealth.assert_healthy(torch.nn.Linear(4, 2), torch.randn(8, 4))
"""


def test_xdist_under_torchrun_reports_once(tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    source = CONFTEST.replace("autouse=True", "autouse=False")
    run = torchrun(tmp_path, PLAIN, "-p", "xdist", "-n1", "--gradhealth-report", conftest=source)
    assert run.code == 0
    assert run.tests == {"test_plain": (Ended("passed", ""),) * 2}
    assert run.output.count(" gradient health ") == 1
    assert run.output.count("1 probe: 1 healthy") == 1


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

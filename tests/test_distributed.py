"""Models that several processes share, tested by runs of torchrun with two processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pytest_gradhealth.distributed.rank import rank
from tests.helpers.ranks import (
    CONFTEST,
    DDP,
    SHARDED,
    Ended,
    Run,
    errors,
    fully_sharded,
    passed,
    torchrun,
)

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="torch.distributed with gloo is not available",
)


@pytest.fixture(scope="module")
def ddp(tmp_path_factory: pytest.TempPathFactory) -> Run:
    options = ["--gradhealth-report", "--gradhealth-update"]
    return torchrun(tmp_path_factory.mktemp("ddp"), DDP, *options)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return torchrun(tmp_path_factory.mktemp("sharded"), SHARDED, "--gradhealth-report")


@pytest.mark.parametrize(
    "test",
    [
        "test_profile",
        "test_steps_after_a_probe",
        "test_probe_between_forward_and_backward",
        "test_cured",
        "test_plain_model_on_one_rank",
        "test_a_forward_that_waits_for_others",
        "test_other_limits_on_one_diagnosis",
    ],
)
def test_a_wrapped_model_is_measured_as_the_plain_one_and_left_as_it_was(
    ddp: Run, test: str
) -> None:
    passed(ddp, test)


@pytest.mark.parametrize(
    "test",
    [
        "test_profile",
        "test_optimizer_instance",
        "test_steps_after_a_probe",
        "test_gradients_of_the_caller_stay",
        "test_doubt_on_one_rank",
        "test_shared_probes",
        "test_error_in_forward",
        "test_probe_between_forward_and_backward",
    ],
)
@fully_sharded
def test_a_sharded_model_is_measured_as_the_plain_one_and_left_as_it_was(
    sharded: Run, test: str
) -> None:
    passed(sharded, test)


@pytest.mark.parametrize(
    "test",
    [
        "test_tensor_parallel",
        "test_tensor_parallel_branches",
        "test_tensor_parallel_clip",
        "test_tensor_parallel_remedies",
        "test_tensor_parallel_local_units",
        "test_tensor_parallel_units",
    ],
)
def test_a_model_under_tensor_parallelism_is_measured_as_the_plain_one_and_left_as_it_was(
    sharded: Run, test: str
) -> None:
    passed(sharded, test)


def test_bad_data_on_one_rank_fails_a_wrapped_model_on_all_with_one_message(ddp: Run) -> None:
    first, second = errors(ddp, "test_bad_data_on_one_rank")
    assert first == second
    headline, _, setting, *_ = first.splitlines()
    assert headline == "the loss is NaN, although every layer's output is finite [GH301]"
    assert setting.startswith("Sequential on cpu of rank 1, 7 points, seed ")


@fully_sharded
def test_bad_data_on_one_rank_fails_a_sharded_model_on_all_with_one_message(sharded: Run) -> None:
    first, second = errors(sharded, "test_bad_data_on_one_rank")
    assert first == second
    headline, _, setting, *_ = first.splitlines()
    assert headline == "the loss is NaN, although every layer's output is finite [GH301]"
    assert setting.startswith("Sequential on cpu, 7 points, seed ")
    assert "the layers of a sharded model cannot be replaced" in " ".join(first.split())


EMPTY = "the batch is empty: the first input has shape (0, 16); pass at least one example"
PICKY = "Picky.forward raised ValueError: no such example\n  it was called with (32, 16) float32"
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


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (
            "test_dependency",
            "dependency is not measured on a sharded model; probe the model before it is sharded",
        ),
        (
            "test_gradient_accumulation",
            "no parameter has a gradient after the backward, since fully_shard keeps them where"
            " gradients are not synchronised; call model.set_requires_gradient_sync(True) before"
            " the probe",
        ),
        (
            "test_partly_sharded",
            "parts of Sequential are sharded, but not the model itself; call fully_shard on it as"
            " well",
        ),
    ],
)
def test_what_cannot_be_measured_of_a_sharded_model_is_said(
    sharded: Run, test: str, message: str
) -> None:
    assert errors(sharded, test) == (message, message)


@fully_sharded
def test_a_rank_that_fails_alone_in_a_sharded_model_ends_the_run(sharded: Run) -> None:
    ended = sharded.tests["test_error_on_one_rank"][1]
    assert ended == Ended("failed", f"pytest_gradhealth.ProbeError: {PICKY}")
    assert sharded.tests.get("test_after_it", (Ended("not run", ""),) * 2)[1].outcome == "not run"
    assert "rank 1 failed alone in a model that the ranks compute together" in sharded.output
    assert sharded.code == 1


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

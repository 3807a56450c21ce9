"""Models under fully_shard are measured as plain ones."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.ranks import PICKY, Ended, Run, errors, fully_sharded, passed

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="torch.distributed with gloo is not available",
)


@pytest.mark.parametrize(
    "test",
    [
        "test_profile",
        "test_what_no_optimizer_holds",
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


@fully_sharded
def test_bad_data_on_one_rank_fails_a_sharded_model_on_all_with_one_message(sharded: Run) -> None:
    first, second = errors(sharded, "test_bad_data_on_one_rank")
    assert first == second
    headline, _, setting, *_ = first.splitlines()
    assert headline == "the loss is NaN: the targets are not finite [GH301]"
    assert setting.startswith("Sequential on cpu, loss mse_loss, 7 points, seed ")
    assert "cannot:" not in first, "the targets are the cause, whatever remedies there are"


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

"""Models in DistributedDataParallel are measured as plain ones."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.ranks import Run, errors, passed

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="torch.distributed with gloo is not available",
)


@pytest.mark.parametrize(
    "test",
    [
        "test_profile",
        "test_an_optimizer_whose_state_is_spread",
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


def test_bad_data_on_one_rank_fails_a_wrapped_model_on_all_with_one_message(ddp: Run) -> None:
    first, second = errors(ddp, "test_bad_data_on_one_rank")
    assert first == second
    headline, _, setting, *_ = first.splitlines()
    assert headline == "the loss is NaN: the targets are not finite [GH301]"
    assert setting.startswith("Sequential on cpu of rank 1, loss mse_loss, 7 points, seed ")

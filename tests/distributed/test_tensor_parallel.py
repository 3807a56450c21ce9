"""Models under tensor parallelism are measured as plain ones."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.ranks import Run, passed

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="torch.distributed with gloo is not available",
)


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

"""The memory of tensors: which lie in it without gaps, whatever order they are read in."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_gradhealth.tensors.storage import as_it_lies

shapes = st.lists(st.integers(1, 4), max_size=4)


@given(shapes, st.randoms(use_true_random=False))
def test_dense_tensors_are_laid_out_whatever_their_order(shape: list[int], order: object) -> None:
    values = torch.arange(torch.Size(shape).numel())
    turned = list(range(len(shape)))
    order.shuffle(turned)  # type: ignore[attr-defined]
    found = as_it_lies(values.view(shape).permute(turned))
    assert found is not None
    assert found.tolist() == values.tolist()


@pytest.mark.parametrize(
    ("size", "steps"),
    [((3,), (2,)), ((2, 3), (3, 0)), ((2, 2, 2), (1, 1, 5)), ((2, 3), (4, 1)), ((3, 3), (1, 1))],
)
def test_those_with_gaps_or_repeats_are_not(size: tuple[int, ...], steps: tuple[int, ...]) -> None:
    assert as_it_lies(torch.arange(12).as_strided(size, steps)) is None

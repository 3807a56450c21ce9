"""Norms of large tensors by sample: as right as promised, exact where a sample would lie."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pytest_gradhealth.tensors.norms import l2_norm, spread
from pytest_gradhealth.tensors.samples import (
    BLOCK,
    BLOCKS,
    SMALL,
    TOLERANCE,
    sampled_norm,
    sampled_spread,
)

LARGE = 4 * SMALL
SAMPLE = BLOCKS * BLOCK


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def off(tensor: Tensor) -> float:
    return abs(float(sampled_norm(tensor)) / float(torch.linalg.vector_norm(tensor.double())) - 1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(SMALL + 1, 2 * LARGE), st.floats(-12, 12))
def test_an_estimate_is_as_good_as_its_sample(seed: int, numel: int, decades: float) -> None:
    values = seeded(numel, seed=seed) * 10**decades
    assert off(values) < 6 / (2 * SAMPLE) ** 0.5  # six standard errors of as many normal numbers


def test_what_is_the_same_everywhere_is_exact() -> None:
    assert off(torch.full((LARGE + 7,), 0.1)) < 1e-6


def with_some(places: Tensor, value: float = 1.0) -> Tensor:
    values = torch.zeros(LARGE)
    values[places] = value
    return values


#: Of one batch: channels of very different size, features, examples, positions.
UNEVEN: dict[str, Callable[[], Tensor]] = {
    "channels": lambda: seeded(8, 64, 32, 32) * torch.logspace(0, -2, 64)[:, None, None],
    "features": lambda: seeded(16, 64, 512) * torch.logspace(0, -2, 512),
    "examples": lambda: seeded(64, 128, 64) * torch.logspace(0, -2, 64)[:, None, None],
    "rectified": lambda: seeded(64, 128, 64).relu(),
    "channels last": lambda: seeded(8, 64, 32, 32).contiguous(memory_format=torch.channels_last),
    "half": lambda: with_some(torch.arange(LARGE // 2)),
    "turned": lambda: seeded(512, 1024).t(),
    "one of many": lambda: seeded(LARGE, 4)[:, :1] * 1.0,
}


@pytest.mark.parametrize("kind", UNEVEN)
def test_so_it_is_of_what_a_batch_is_like(kind: str) -> None:
    assert off(UNEVEN[kind]()) < 0.15  # three standard errors


EXACT: dict[str, Callable[[], Tensor]] = {
    "small": lambda: seeded(SMALL),
    "one element": lambda: with_some(torch.tensor([12345])),
    "few rows of an embedding": lambda: with_some(torch.arange(200_000, 200_512)),
    "last positions": lambda: seeded(4, 256, 512) * (torch.arange(256) == 255)[None, :, None],
    "tiny": lambda: 1e-30 * seeded(LARGE),
    "huge": lambda: 1e25 * seeded(LARGE),
    "zeros": lambda: torch.zeros(LARGE),
    "with gaps": lambda: seeded(2, LARGE)[:, ::2],
    "expanded": lambda: torch.ones(()).expand(LARGE),
    "integers": lambda: torch.ones(LARGE, dtype=torch.int64),
    "complex": lambda: torch.complex(seeded(LARGE), seeded(LARGE)),
    "sparse": lambda: with_some(torch.tensor([3])).to_sparse(),
}


@pytest.mark.parametrize("kind", EXACT)
def test_where_a_sample_does_not_do_the_norm_is_exact(kind: str) -> None:
    values = EXACT[kind]()
    assert float(sampled_norm(values)) == float(l2_norm(values))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_in_the_sample_stays_so(bad: float) -> None:
    values = seeded(LARGE)
    values[::BLOCK] = bad
    assert str(float(sampled_norm(values))) == str(float(l2_norm(values)))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_formats_are_sampled_as_well(kind: torch.dtype) -> None:
    values = seeded(LARGE).to(kind)
    assert off(values) < 0.02
    assert float(sampled_norm(values)) != float(l2_norm(values))


def test_the_same_tensor_has_the_same_estimate_whatever_its_scale() -> None:
    values = seeded(LARGE)
    assert float(sampled_norm(values)) == float(sampled_norm(values.clone()))
    assert float(sampled_norm(values * 4)) == 4 * float(sampled_norm(values))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(("more", "sampled"), [(1.0, True), (6.0, True), (1e4, False)])
def test_only_what_is_too_uneven_is_read_as_a_whole(
    scale: float, more: float, sampled: bool
) -> None:
    """An eighth has so many times the squares of the rest: the squares of blocks vary as much."""
    values = seeded(LARGE) * scale
    values[: LARGE // 8] *= more**0.5
    error = (7 * (more - 1) ** 2) ** 0.5 / (more + 7) / BLOCKS**0.5  # of the mean square
    assert (error < 2 * TOLERANCE) == sampled
    assert (float(sampled_norm(values)) != float(l2_norm(values))) == sampled


def with_columns(batch: Tensor, places: slice, value: float) -> Tensor:
    batch[:, places] = value
    return batch


COLUMNS = 3 * BLOCKS * BLOCK
#: Outputs of a batch, and whether a sample can tell how far examples lie apart.
BATCHES: dict[str, tuple[Callable[[], Tensor], bool]] = {
    "apart": (lambda: seeded(4, COLUMNS), True),
    "shifted": (lambda: seeded(4, COLUMNS) + 2, True),
    "tokens": (lambda: seeded(2, 8, COLUMNS), True),
    "half precision": (lambda: seeded(4, COLUMNS).bfloat16(), True),
    "alike": (lambda: seeded(1, COLUMNS) + 1e-6 * seeded(4, COLUMNS), False),
    "equal": (lambda: seeded(1, COLUMNS).repeat(4, 1), False),
    "alike but for noise": (lambda: with_columns(1e-9 * seeded(4, COLUMNS), slice(1), 5), False),
    "masked": (lambda: with_columns(seeded(4, COLUMNS), slice(-40, None), -1e9), False),
    "zero": (lambda: torch.zeros(4, COLUMNS), False),
    "not finite": (lambda: with_columns(seeded(4, COLUMNS), slice(1), float("nan")), False),
    "small": (lambda: seeded(4, 100), False),
    "transposed": (lambda: seeded(COLUMNS, 4).t(), False),
}


@pytest.mark.parametrize("kind", BATCHES)
def test_how_far_examples_lie_apart_is_estimated_where_that_is_beyond_doubt(kind: str) -> None:
    make, estimated = BATCHES[kind]
    batch = make()
    whole, found = spread(batch), sampled_spread(batch, l2_norm(batch))
    assert float(found) == pytest.approx(float(whole), rel=0.05 if estimated else 1e-4, nan_ok=True)
    every = spread(batch, norm=l2_norm(batch))
    assert (float(found) != float(every)) == estimated or found.isnan()

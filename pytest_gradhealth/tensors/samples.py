"""Norms of large tensors on the host, estimated from blocks all over them."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from pytest_gradhealth.tensors.devices import on_host
from pytest_gradhealth.tensors.norms import SAFE_FLOAT32, is_ordinary, l2_norm, spread
from pytest_gradhealth.tensors.storage import as_it_lies

#: Elements up to which a norm is exact.
SMALL = 2**17
#: How many blocks stand for a larger tensor, of how many elements each that lie side by side.
BLOCKS, BLOCK = 128, 128
#: The standard error of an estimate, as a share of it, above which the norm is taken exactly.
TOLERANCE = 0.05
#: The spread of a sample of some examples above which they differ beyond doubt.
CLEAR = 0.3
#: How much larger or smaller than the rest a sample may be that speaks for it.
ALIKE = 1.2
#: The golden ratio's fraction, times 2**32: its multiples lie as evenly as any.
_GOLDEN = 2654435769


def sampled_norm(tensor: Tensor) -> Tensor:
    """Return the L2 norm of a tensor, right to `TOLERANCE` (0.02 decades, one standard error).

    It is exact for at most `SMALL` elements, on an accelerator, and where the sample holds zeros
    alone, a few elements that carry it (an embedding's gradient) or any that is not finite. What
    the sample does not meet it does not know.
    """
    blocks = _blocks(tensor)
    if blocks is None:
        return l2_norm(tensor)
    # Numbers on the host: right after a layer each call of torch costs more than all of these sums.
    norms = torch.linalg.vector_norm(blocks, dim=1).tolist()
    mean = math.hypot(*norms) ** 2 / BLOCKS
    low, high = SAFE_FLOAT32
    if not low * low < mean < high * high:
        return l2_norm(tensor)
    fourth = math.hypot(*(norm * norm for norm in norms)) ** 2 / BLOCKS
    variance = (fourth - mean * mean) * BLOCKS / (BLOCKS - 1)
    if variance > BLOCKS * (2 * TOLERANCE * mean) ** 2:  # the error of the square
        return l2_norm(tensor)
    return torch.tensor(math.sqrt(mean * tensor.numel() / BLOCK), dtype=torch.float64)


def sampled_spread(batch: Tensor, norm: Tensor) -> Tensor:
    """Return how far the examples of a batch lie apart, as `spread` does for the whole of it.

    By blocks of each example, the same of all, where there are more than `SMALL` elements on the
    host and those of the blocks are apart by more than `CLEAR`, and as large as `norm`, that of all
    elements, has them.
    """
    if batch.numel() > SMALL and on_host(batch) and batch.is_contiguous() and is_ordinary(batch):
        each = batch.detach().view(len(batch), -1)
        columns = each.shape[1] // BLOCK
        if columns > BLOCKS:
            every = each[:, : columns * BLOCK].view(len(batch), columns, BLOCK)
            some = every.index_select(1, _chosen(columns, BLOCKS, batch.device))
            size = l2_norm(some)
            apart = spread(some, norm=size)
            share = (size / norm).item() * math.sqrt(batch.numel() / some.numel())
            if apart.item() > CLEAR and 1 / ALIKE < share < ALIKE:
                return apart
    return spread(batch, norm=norm)


def _blocks(tensor: Tensor) -> Tensor | None:
    """Blocks of a large tensor, one in each row, wherever they lie in it; None for any other."""
    if tensor.numel() <= SMALL or not on_host(tensor) or not is_ordinary(tensor):
        return None
    flat = as_it_lies(tensor.detach())
    if flat is None or not tensor.is_floating_point():
        return None
    blocks = spread_out(flat, BLOCKS, BLOCK)
    return blocks if blocks.element_size() > 2 else blocks.float()


def spread_out(flat: Tensor, blocks: int, block: int) -> Tensor:
    """Return blocks of elements from all over a flat tensor, one in each row, always the same."""
    rows = flat.numel() // block
    every = flat[: rows * block].view(rows, block)
    return every.index_select(0, _chosen(rows, blocks, flat.device))  # a fifth of what indexing is


@lru_cache(maxsize=64)
def _chosen(rows: int, blocks: int, device: torch.device) -> Tensor:
    """One row out of each of some equal parts."""
    part = rows / blocks
    places = [int(part * (i + i * _GOLDEN % 2**32 / 2**32)) for i in range(blocks)]
    return torch.tensor(places, device=device)

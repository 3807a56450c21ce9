"""Number formats, and how coarse they are."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def coarsest(values: Iterable[Tensor]) -> torch.dtype:
    """The floating format with the largest rounding unit among some tensors, float32 for none."""
    formats = {t.dtype for t in values if t.is_floating_point() or t.is_complex()}
    return max(formats, key=lambda f: torch.finfo(f).eps, default=torch.float32)

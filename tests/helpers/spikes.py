"""Neurons that spike, and the slope that gradients take in place of theirs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Spike(torch.autograd.Function):
    """A spike above a threshold of zero, with the slope of an arc tangent (Fang et al. 2021)."""

    @staticmethod
    def forward(ctx: Any, potential: Tensor) -> Tensor:
        ctx.save_for_backward(potential)
        return (potential > 0).to(potential.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (potential,) = ctx.saved_tensors
        return gradient / (1 + (torch.pi * potential) ** 2)

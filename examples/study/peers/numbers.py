"""Numbers of tensors that formulas are made of: of inputs, outputs and gradients."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

#: A unit that is active, or not saturated, for less than this share of a batch is idle.
IDLE = 0.01
#: Where tanh and sigmoid are flat: their derivative is below 1e-7.
FLAT = {"Tanh": (-9.4999, 9.4999), "Sigmoid": (-23.0, 16.99999)}
#: The range of what they return.
RANGE = {"Tanh": (-1.0, 1.0), "Sigmoid": (0.0, 1.0)}
BINS = 50
#: The kinds of layers that are activations.
ACTIVATIONS = frozenset(
    kind.__name__
    for kind in (
        *(nn.CELU, nn.ELU, nn.GELU, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU),
        *(nn.LogSoftmax, nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid),
        *(nn.Softmax, nn.Softplus, nn.Softsign, nn.Tanh),
    )
)

#: What a gradient that is None has.
NOTHING: dict[str, Any] = dict.fromkeys(
    ("gradient_norm", "finite_norm", "mean_abs", "max_abs", "zero_share", "spread"), math.nan
)


def gradient_numbers(gradient: Tensor) -> dict[str, Any]:
    """What is kept of a parameter's gradient."""
    finite = gradient[gradient.isfinite()]
    low, high = _percentiles(gradient.flatten(), 0.05, 0.95)
    return {
        "gradient_norm": float(gradient.norm()),
        "finite_norm": float(finite.norm()) if finite.numel() else math.inf,
        "mean_abs": float(gradient.abs().mean()),
        "max_abs": float(gradient.abs().max()),
        "zero_share": share_of(gradient == 0),
        "spread": float(high - low),
    }


def input_numbers(values: Tensor, kind: str) -> dict[str, Any]:
    """What is kept of the input of a tanh or a sigmoid."""
    with torch.no_grad():
        exact = in_double(values)
        low, high = FLAT[kind]
        alive = _share_per_unit(~((exact <= low) | (exact >= high)))
        return {
            "large_input_share": share_of(exact.abs() >= 5),
            "flat_share": share_of(alive < IDLE),
        }


def output_numbers(values: Tensor, kind: str) -> dict[str, Any]:
    """What is kept of what a layer returns."""
    with torch.no_grad():
        exact = in_double(values)
        size = exact.abs()
        numbers: dict[str, Any] = {
            "rms": rms_of(exact),
            "std": float(exact.std(correction=0)) if exact.numel() else math.nan,
            "finite": bool(exact.isfinite().all()),
            "nonpositive_share": share_of(exact <= 0),
            "near_zero_share": share_of(size < 1e-6),
            "high_share": share_of(size > 0.95),
        }
        if kind in ACTIVATIONS and exact.numel():
            columns = _columns(exact)
            numbers["dim_share"] = share_of(_percentiles(columns.abs(), 0.95)[0] < 1e-5)
            if kind == "ReLU":
                numbers["idle_share"] = share_of(_share_per_unit(exact > 0) < IDLE)
            if kind in RANGE:
                numbers["rho_share"] = share_of(_rho(columns, *RANGE[kind]) > 0.85)
        return numbers


def _rho(columns: Tensor, low: float, high: float) -> Tensor:
    """Rakitianskaia and Engelbrecht's rho_B per column, with the bins' own means."""
    place = ((columns - low) / (high - low) * BINS).nan_to_num(0).long().clamp(0, BINS - 1)
    shape = (BINS, columns.shape[1])
    counts = torch.zeros(shape, dtype=columns.dtype, device=columns.device)
    sums = torch.zeros_like(counts)
    counts.scatter_add_(0, place, torch.ones_like(columns))
    sums.scatter_add_(0, place, columns)
    means = sums / counts.clamp(min=1)
    return ((2 * (means - low) / (high - low) - 1).abs() * counts).sum(0) / counts.sum(0)


def _columns(values: Tensor) -> Tensor:
    """One column per channel of images, else per position of the last axis."""
    if values.ndim < 2:
        return values.reshape(-1, 1)
    channels_last = values.movedim(1, -1) if values.ndim >= 4 else values
    return channels_last.reshape(-1, channels_last.shape[-1])


def _share_per_unit(mask: Tensor) -> Tensor:
    return mask.reshape(len(mask), -1).double().mean(0) if mask.ndim else mask.double()


def _percentiles(values: Tensor, *shares: float) -> list[Tensor]:
    """Along the first axis, with linear interpolation; torch.quantile takes no large tensors."""
    last = len(values) - 1
    found = []
    for share in shares:
        place = share * last
        below = math.floor(place)
        low, high = (
            values.kthvalue(1 + min(rank, last), dim=0).values for rank in (below, below + 1)
        )
        found.append(torch.lerp(low, high, place - below))
    return found


def share_of(mask: Tensor) -> float:
    """The share of elements that are true, 0 of none."""
    return float(mask.double().mean()) if mask.numel() else 0.0


def rms_of(values: Tensor) -> float:
    """The root of the mean square, 0 of nothing."""
    return float(values.norm()) / math.sqrt(max(values.numel(), 1))


def in_double(values: Tensor) -> Tensor:
    """The values without a history, in float64; of complex ones their sizes."""
    values = values.detach()
    return values.abs().double() if values.is_complex() else values.double()


def as_dense(values: Tensor) -> Tensor:
    """The values of a tensor that may be sparse."""
    return values if values.layout == torch.strided else values.to_dense()

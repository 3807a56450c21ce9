"""Tensors to numbers: L2 norms that neither under- nor overflow, and their transfer to the host."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from pytest_gradhealth.tensors.devices import on_host
from pytest_gradhealth.tensors.storage import as_it_lies
from pytest_gradhealth.tensors.trees import tensors
from pytest_gradhealth.tensors.unwrap import (
    PLAIN,
    is_spread,
    outside_transforms,
    packed,
    unwrapped,
    whole,
)

#: Between these, the squares of float32 numbers add up without loss.
SAFE_FLOAT32 = (1e-15, 1e18)
#: The same for float64.
_SAFE_FLOAT64 = (1e-150, 1e150)
#: A naive float32 sum of more squares than this loses digits: it is cut into rows of this length.
_ROW = 256
#: Up to so many elements, a sum in float64 costs less than to see whether it takes one.
FEW = 2**13
#: A difference of squares that is larger than this share of them has six digits.
_MUCH = 0.1


def l2_norm(tensor: Tensor) -> Tensor:
    """Return the L2 norm of all elements as a 0-dim tensor on the tensor's device.

    Any dtype; sparse and complex tensors count by their values. Right from 1e-300 to 1e+300 in
    float64, and in float32 also where the squares leave its range. NaN stays NaN, infinite stays
    infinite. On the CPU the number is looked at to choose the cheapest right way; on an accelerator
    nothing waits for the device.
    """
    if _is_plain(tensor) and on_host(tensor) and tensor.numel():
        values = tensor.detach()
        return _norm(values, dtype=torch.float64) if values.numel() <= FEW else _cpu_norm(values)
    if is_spread(tensor):
        return whole(_norm(tensor.detach(), dtype=_widest(tensor)))
    values = _values(tensor)
    if values.numel() == 0:
        return torch.zeros((), dtype=torch.float64)
    if on_host(values):
        return _cpu_norm(values)
    if values.dtype == _widest(values) or values.device.type == "mps":
        return _rescaled_norm(values)
    return _norm(values, dtype=_widest(values))


@torch.no_grad()
def l2_norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the L2 norms of some tensors, with one call for all that have few elements."""
    few = list(filter(_has_few, tensors))
    together = torch._foreach_norm(few, 2, torch.float64) if few else ()
    norms = dict(zip(map(id, few), together, strict=True))
    return [norms[id(t)] if id(t) in norms else l2_norm(t) for t in tensors]


def to_numbers(scalars: Sequence[Tensor]) -> list[float]:
    """Read 0-dim tensors back as Python floats, in one transfer per accelerator."""
    numbers = [0.0] * len(scalars)
    by_device: dict[torch.device, list[int]] = {}
    scalars = [whole(scalar) for scalar in scalars]
    for index, scalar in enumerate(scalars):
        if on_host(scalar):
            numbers[index] = float(scalar.item())
        else:
            by_device.setdefault(scalar.device, []).append(index)
    for device, indices in by_device.items():
        dtype = torch.float32 if device.type == "mps" else torch.float64
        stacked = torch.stack([scalars[index].to(dtype) for index in indices])
        for index, number in zip(indices, stacked.tolist(), strict=True):
            numbers[index] = number
    return numbers


def cosine(weight: Tensor, gradient: Tensor, norms: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Return the cosine of the angle between two tensors of one shape, NaN if one is zero.

    `norms` are theirs, if they are known: on the CPU that saves another two passes over them.
    """
    with torch.no_grad():
        low, high = SAFE_FLOAT32
        plain = on_host(weight) and _is_plain(weight) and _is_plain(gradient)
        if plain and norms and all(low < norm.item() < high for norm in norms):
            return torch.dot(weight.reshape(-1), gradient.reshape(-1)) / (norms[0] * norms[1])
        dense = gradient if gradient.layout == torch.strided else gradient.to_dense()
        return torch.vdot(_unit(weight), _unit(dense)).real


def rms(tensor: Tensor) -> Tensor:
    """Return the root mean square of all elements."""
    root: Tensor = l2_norm(tensor) / packed(tensor.detach()).numel() ** 0.5
    return root


def kind_of(tensor: Tensor) -> str:
    """Return "nan", "inf" or "-inf" for a tensor that holds such a value, worst first; else ""."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return ""
    tensor = packed(unwrapped(tensor).detach())
    with outside_transforms():
        if math.isfinite(float(l2_norm(tensor))):
            return ""
        if bool(tensor.isnan().any()):
            return "nan"
        return "inf" if tensor.is_complex() or bool((tensor == math.inf).any()) else "-inf"


def worst_kind(kinds: Iterable[str]) -> str:
    """Return the worst of what `kind_of` says of some tensors, "" for none."""
    return max(kinds, key=("", "-inf", "inf", "nan").index, default="")


def worst_in(value: object) -> str:
    """Return what `kind_of` says of the worst tensor in a nested value."""
    return worst_kind(map(kind_of, tensors(value)))


@torch.no_grad()
def spread(outputs: Tensor, dim: int = 0, norm: Tensor | None = None) -> Tensor:
    """Return how far the examples of a batch lie apart: RMS distance from their mean over RMS.

    Between 0 (all the same) and 1, also for integers and booleans; NaN for a batch of zeros
    and for a sparse one. `dim` is the one that counts the examples, `norm` theirs if it is known.
    """
    outputs = whole(outputs)
    if outputs.layout is not torch.strided:
        return torch.full((), math.nan)  # one made dense might not fit into memory
    numeric = outputs.is_floating_point() or outputs.is_complex()
    values = outputs if numeric and outputs.element_size() > 1 else outputs.double()
    size = l2_norm(values) if norm is None else norm
    if on_host(values) and _is_plain(values) and values.numel() > FEW:
        # What the mean leaves of the square is told without another tensor, unless it is little.
        mean = values.mean(dim, keepdim=True)
        left = 1 - (l2_norm(mean) / size).square() * values.shape[dim]
        if left.item() > _MUCH:
            return left.sqrt()
    first = values.narrow(dim, 0, min(1, values.shape[dim]))
    apart = values - first  # of what is the same for all, no rounding of a mean
    distance: Tensor = l2_norm(apart - apart.mean(dim, keepdim=True)) / size
    return distance


#: Rows are equal if they are apart by less than this share of their length: rounding.
_ROUNDING = 1e-5


@torch.no_grad()
def has_equal_rows(values: Tensor) -> bool:
    """Return whether all rows of a tensor are the same, but for rounding, and not zero."""
    return bool(spread(values) < _ROUNDING)


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is dense float32 without anything special, as most are."""
    return tensor.dtype is torch.float32 and is_ordinary(tensor)


def _has_few(tensor: Tensor) -> bool:
    return _is_plain(tensor) and on_host(tensor) and 0 < tensor.numel() <= FEW


def is_ordinary(tensor: Tensor) -> bool:
    """Whether a tensor is dense, and nothing but a tensor."""
    return tensor.layout is torch.strided and type(tensor) in PLAIN and not tensor.is_nested


def _norm(values: Tensor, dim: int | None = None, dtype: torch.dtype | None = None) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(values, dim=dim, dtype=dtype)
    return norm


def _unit(tensor: Tensor) -> Tensor:
    flat = _values(tensor).reshape(-1)
    return flat / l2_norm(flat)


def _values(tensor: Tensor) -> Tensor:
    values = packed(whole(tensor.detach()))
    if values.layout != torch.strided:
        values = values.coalesce().values() if values.is_sparse else values.values()
    if values.is_floating_point() or values.is_complex():
        return values
    return values.to(torch.float32)


def _cpu_norm(values: Tensor) -> Tensor:
    if values.dtype == _widest(values):
        plain, safe = float(_norm(values)), _SAFE_FLOAT64
    elif values.dtype == torch.float32:
        plain, safe = _rowwise_norm(values), SAFE_FLOAT32
    else:
        return _widened_norm(values)
    if safe[0] < plain < safe[1]:
        return torch.tensor(plain, dtype=torch.float64)
    if values.dtype == _widest(values):
        return _rescaled_norm(values)
    return _widened_norm(values)


def _rowwise_norm(values: Tensor) -> float:
    flat = as_it_lies(values)
    flat = values.reshape(-1) if flat is None else flat
    rows, rest = divmod(flat.numel(), _ROW)
    norms = _norm((flat[:-rest] if rest else flat).view(rows, _ROW), dim=1)
    most = _norm(norms if rows <= _ROW else norms.double()).item()
    return math.hypot(most, _norm(flat[-rest:]).item()) if rest else most


def _widened_norm(values: Tensor) -> Tensor:
    return _norm(values.to(_widest(values)))


def _widest(values: Tensor) -> torch.dtype:
    """The format of most digits for the values of a tensor."""
    return torch.complex128 if values.is_complex() else torch.float64


def _rescaled_norm(values: Tensor) -> Tensor:
    magnitudes = values.abs()
    largest = magnitudes.amax()
    usable = torch.isfinite(largest) & (largest > 0)
    scaled = _norm(magnitudes / torch.where(usable, largest, 1))
    return torch.where(usable, largest * scaled, largest)

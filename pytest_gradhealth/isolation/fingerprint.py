"""Tells whether a model, its batch or its optimizer has changed since it was last looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from pytest_gradhealth.tensors.norms import l2_norm
from pytest_gradhealth.tensors.unwrap import own_part

#: Elements of a tensor that are compared one by one.
SAMPLE = 64


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is compared: identities, flags and version counters, and numbers still on the device.

    Two are equal where none of it differs, bit for bit. Comparing waits for the device, taking one
    does not.
    """

    known: tuple[Any, ...]
    numbers: dict[torch.device, Tensor]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Fingerprint):
            return NotImplemented
        return (
            self.known == other.known
            and self.numbers.keys() == other.numbers.keys()
            and all(_is_same(ours, other.numbers[d]) for d, ours in self.numbers.items())
        )

    __hash__ = None  # type: ignore[assignment]


def fingerprint(
    modules: Sequence[nn.Module], batch: Sequence[Tensor], optimizer: Optimizer | None = None
) -> Fingerprint:
    """Return a value that differs once they have changed; runs no code of theirs.

    Version counters see every change in place but those through `.data`, which norms and a sample
    of the elements see.
    """
    inner = [module for root in modules for module in root.modules()]
    state = [t for root in modules for t in (*root.parameters(), *root.buffers())]
    numbers: dict[torch.device, list[Tensor]] = {}
    with torch.no_grad():
        for tensor in (*state, *batch):
            for part in _numbers(tensor):
                numbers.setdefault(part.device, []).append(part)
        together = {device: torch.cat(parts) for device, parts in numbers.items()}
    known = (
        tuple(map(_module_state, inner)),
        tuple(map(_tensor_state, (*state, *batch))),
        _optimizer_state(optimizer),
    )
    return Fingerprint(known, together)


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Whether all bits are the same, which those of NaN are as well."""
    same = one.view(torch.uint8), other.view(torch.uint8)
    return bool(one.shape == other.shape and torch.equal(*same))


def _optimizer_state(optimizer: Optimizer | None) -> object:
    """Settings and parameters of every group."""
    if optimizer is None:
        return None
    groups = optimizer.param_groups
    settings = [{k: v for k, v in group.items() if k != "params"} for group in groups]
    return str(settings), [[id(p) for p in group["params"]] for group in groups]


def _module_state(module: nn.Module) -> tuple[object, ...]:
    """Identity, hooks, and the attributes that are plain values: modes, rates, slopes."""
    plain = tuple(
        (k, str(v)) for k, v in vars(module).items() if isinstance(v, (bool, int, float, str))
    )
    hooks = tuple(module._forward_hooks), tuple(module._forward_pre_hooks)
    return id(module), type(module), hooks, plain


def _tensor_state(tensor: Tensor) -> tuple[object, ...]:
    if is_lazy(tensor):
        return (id(tensor),)
    version = -1 if tensor.is_inference() else tensor._version
    return id(tensor), tensor.requires_grad, version


def _numbers(tensor: Tensor) -> Iterator[Tensor]:
    """Norm and some elements as float64 (float32 where a device has no more), if it has any."""
    tensor = own_part(tensor)
    if is_lazy(tensor) or tensor.is_meta or tensor.layout != torch.strided or not tensor.numel():
        return
    wide = torch.float32 if tensor.device.type == "mps" else torch.float64
    try:
        flat = tensor.detach().reshape(-1)
        flat = torch.view_as_real(flat).reshape(-1) if flat.is_complex() else flat
        sample = flat[:: max(1, flat.numel() // SAMPLE)].to(wide)
        norm = [l2_norm(flat).to(wide).reshape(1)] if flat.is_floating_point() else []
    except (RuntimeError, TypeError):
        return  # exotic number formats have neither norm nor list
    yield from (sample, *norm)

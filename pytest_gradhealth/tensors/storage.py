"""The memory behind a tensor: whether it is there, and how far it goes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from pytest_gradhealth.tensors.unwrap import PLAIN, parts


def has_memory(tensor: Tensor) -> bool:
    """Whether all elements of a tensor are in memory: its storage may have been freed."""
    if is_lazy(tensor) or tensor.is_meta:
        return False
    if type(tensor) not in PLAIN or not tensor.numel():
        return True
    if tensor.layout != torch.strided:
        return all(map(has_memory, parts(tensor)))
    if tensor.is_nested:
        return size_of(tensor) >= tensor.numel() * tensor.element_size()
    return size_of(tensor) >= (tensor.storage_offset() + span(tensor)) * tensor.element_size()


def size_of(tensor: Tensor) -> int:
    """Bytes of the memory behind a tensor; 0 for one that has none of its own."""
    try:
        return tensor.untyped_storage().nbytes()
    except RuntimeError:  # of a sparse tensor, say
        return 0


def storage_of(tensor: Tensor) -> int:
    """Which memory is behind a tensor, also once that has moved; 0 for none of its own."""
    try:
        storage: int = tensor.untyped_storage()._cdata
    except RuntimeError:
        return 0
    return storage


def address_of(tensor: Tensor) -> int:
    """Where the memory behind a tensor begins; 0 for one that has none of its own.

    Asks without the intention to write, which would resolve a copy made lazily.
    """
    try:
        address: int = torch._C._data_address(tensor)  # type: ignore[attr-defined]
    except RuntimeError:  # of a sparse tensor, say
        return 0
    return address


def as_it_lies(tensor: Tensor) -> Tensor | None:
    """All elements of a dense tensor in the order of its memory; None with gaps or repeats."""
    if tensor.is_contiguous():
        return tensor.view(-1)
    expected = 1
    for step, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and step != expected:
            return None
        expected *= size
    return tensor.as_strided((tensor.numel(),), (1,))


def span(tensor: Tensor) -> int:
    """Elements from the first to the last in memory."""
    if tensor.is_contiguous():
        return tensor.numel()
    return 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))

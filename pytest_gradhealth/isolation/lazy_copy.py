"""Copies that share the memory of a tensor until somebody writes to it.

A probe hardly ever writes to what it comes upon, so that copies made beforehand are for nothing,
and written back for nothing. A storage of torch can be marked as shared: what asks it for memory to
write to is given memory of its own first, and the copy is left with the numbers that were there.
"""

from __future__ import annotations

import sys
from functools import cache

import torch
from torch import Tensor

from pytest_gradhealth.tensors.devices import on_host


def lazy_copy(data: Tensor) -> Tensor | None:
    """Return a copy of a tensor, given as its `.data`, that takes memory once it has to.

    None where that would miss a write: where others know the same memory (views, arrays of NumPy's,
    graphs), as those may write past the mark; where it is no allocation of torch's own on the host.
    """
    if type(data) is not Tensor or data.layout != torch.strided or not on_host(data):
        return None
    if data.is_nested or data.is_inference() or _owners(data) > _alone():
        return None
    if torch._C._is_cow_tensor(data):  # type: ignore[attr-defined]
        return None  # of a copy of the caller's own
    try:
        copy: Tensor = torch._lazy_clone(data)
    except RuntimeError:  # memory of a file, of other processes, of an array
        return None
    return copy


def settle(data: Tensor) -> None:
    """Have a tensor own its memory again, once its lazy copy is gone."""
    data.data_ptr()


def _owners(data: Tensor) -> int:
    """How many refer to the memory of a tensor, those included that hold its storage in Python."""
    storage = data.untyped_storage()
    return torch._C._storage_Use_Count(storage._cdata) + sys.getrefcount(storage)


@cache
def _alone() -> int:
    """The same of a tensor that nobody else has ever seen."""
    tensor = torch.empty(1)
    data = tensor.data
    return _owners(data)

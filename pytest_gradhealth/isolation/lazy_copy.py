"""Copies that share the memory of a parameter until somebody writes to it.

A probe hardly ever writes to parameters, so that copies made beforehand are for nothing, and
written back for nothing. A storage of torch can be marked as shared: what asks it for memory to
write to is given memory of its own first, and the copy is left with the numbers that were there.

Not for small tensors, which are copied in no time, nor for buffers and the weights of torch's
recurrent layers, whose kernels always ask: where threads do so at once, torch loses count.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable
from functools import cache

import torch
from torch import Tensor, nn

from pytest_gradhealth.tensors.devices import on_host
from pytest_gradhealth.tensors.norms import FEW
from pytest_gradhealth.tensors.storage import address_of

#: What torch says of shared memory where it gets into its own way: of memory that was resized, and
#: of memory that an extension asks for in a loop that runs in parallel.
_IN_THE_WAY = ("impl/COW", "Materializing a storage")


def lazy_copy(parameter: Tensor, data: Tensor) -> Tensor | None:
    """Return a copy of a parameter, with its `.data`, that takes memory once it has to.

    None for anything else, and where a copy would miss a write: where others know the same memory
    (views, arrays of NumPy's, graphs) or a mode may hold on to the copy, as those may write past
    the mark; where it is no allocation of torch's own on the host.
    """
    if type(parameter) is not nn.Parameter or parameter.numel() <= FEW or not on_host(data):
        return None
    if data.is_nested or data.is_inference() or data.layout != torch.strided or _is_watched():
        return None
    if is_held_by_others(data) or torch._C._is_cow_tensor(data):  # type: ignore[attr-defined]
        return None
    try:
        copy: Tensor = torch._lazy_clone(data)
    except RuntimeError:  # memory of a file, of other processes, of an array
        return None
    # Of a conjugate or negative view, torch makes a copy at once, of other bits.
    return copy if address_of(copy) == address_of(data) else None


def ask_to_write(modules: Iterable[object]) -> Collection[int]:
    """Return the ids of parameters whose kernels ask for memory to write to, though they read."""
    layers = (module for module in modules if isinstance(module, nn.RNNBase))
    return {id(parameter) for layer in layers for parameter in layer.parameters(recurse=False)}


def is_in_the_way(error: Exception) -> bool:
    """Whether an error is torch's own, of memory that a lazy copy shares."""
    return any(sign in str(error) for sign in _IN_THE_WAY)


def is_held_by_others(data: Tensor) -> bool:
    """Whether more than a tensor and its `.data` refer to their memory."""
    return _owners(data) > _alone()


def settle(data: Tensor) -> None:
    """Have a tensor own its memory again, once its lazy copy is gone."""
    data.data_ptr()


def _is_watched() -> bool:
    """Whether a mode sees what torch does, and may keep what it returns."""
    return torch._C._len_torch_dispatch_stack() > 0


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

"""Plain tensors in place of those that wrap them: nested ones, and those inside torch.func."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from pytest_gradhealth.tensors.modules import is_dtensor

_functorch = torch._C._functorch
#: The classes of tensors that are nothing else.
PLAIN = (Tensor, torch.nn.Parameter)


def packed(tensor: Tensor) -> Tensor:
    """Return all elements of a nested tensor as a dense one; any other tensor as it is."""
    if not tensor.is_nested:
        return tensor
    if tensor.layout == torch.jagged and getattr(tensor, "_lengths", None) is None:
        return tensor.values()
    parts = tensor.unbind()
    if len({part.shape[1:] for part in parts}) == 1 and parts[0].dim():
        return torch.cat(parts)
    return torch.cat([part.reshape(-1) for part in parts])


def parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return the dense tensors that a sparse or jagged one is made of; any other as it is."""
    layout = tensor.layout
    if layout == torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    if layout == torch.jagged:
        jagged: Any = tensor
        return jagged.offsets(), jagged.values()
    return (tensor,)


def whole(tensor: Any) -> Tensor:
    """Return all elements of a DTensor, gathered from all ranks; any other tensor as it is."""
    full: Tensor = tensor.full_tensor() if is_spread(tensor) else tensor
    return full


def own_part(tensor: Any) -> Tensor:
    """Return what this rank holds of a DTensor; any other tensor as it is."""
    own: Tensor = tensor.to_local() if is_spread(tensor) else tensor
    return own


def is_spread(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, of which every rank holds a part."""
    return type(tensor) not in PLAIN and is_dtensor(tensor)


def is_one_number(tensor: Tensor) -> bool:
    """Whether a tensor has exactly one element; nested and lazy ones do not count theirs."""
    return not tensor.is_nested and not is_lazy(tensor) and tensor.numel() == 1


def odd_kind(tensor: Tensor) -> str:
    """What keeps a number from being differentiated: "sparse", "complex64"; "" for nothing."""
    if tensor.layout != torch.strided:
        return "sparse"
    tiny = tensor.is_floating_point() and tensor.element_size() == 1
    return dtype_name(tensor.dtype) if tiny or tensor.is_complex() else ""


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a type of numbers: "float32"."""
    return str(dtype).removeprefix("torch.")


def computable(tensor: Tensor) -> Tensor:
    """Return a tensor in a format that can be computed with, which those of one byte cannot."""
    return tensor.float() if tensor.element_size() == 1 else tensor


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape; of a nested tensor, which has none, that of all its elements together."""
    if is_lazy(tensor):
        return ()
    return tuple(packed(tensor.detach()).shape if tensor.is_nested else tensor.shape)


def unwrapped(tensor: Tensor) -> Tensor:
    """Return what autograd sees of a tensor inside torch.func.vmap, grad or jvp."""
    while _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return tensor


def is_inside_transform() -> bool:
    """Whether the caller is in torch.func.vmap, grad or jvp, which would transform a probe too."""
    return _functorch.maybe_current_level() is not None


def is_inside_fake_mode() -> bool:
    """Whether the caller is in FakeTensorMode, in which tensors hold no numbers."""
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None


def outside_transforms() -> AbstractContextManager[None]:
    """Computations on unwrapped tensors: the transforms of torch.func do not see them."""
    guard: AbstractContextManager[None] = torch._C._DisableFuncTorch()
    return guard

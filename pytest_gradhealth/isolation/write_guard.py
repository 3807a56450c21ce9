"""Copies of large parameters, made just before something may write to them.

Where torch makes no lazy copies (on an accelerator, say) and there is no room for copies of all of
them, each has to be made in time. Hardly any model writes to its parameters in a forward, and those
that do have few ways: under no_grad, by `.data` and its like, or because the parameter takes no
gradient. All of them begin with a call that torch shows to a mode first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pytest_gradhealth.tensors.memory import free_bytes
from pytest_gradhealth.tensors.storage import address_of
from pytest_gradhealth.tensors.trees import tensors

#: Smaller parameters are copied straight away, which costs less than to watch them.
LARGE = 2**16
#: Parameters are copied as long as all copies take less than this part of free memory.
SHARE = 10
#: What gives a way to the memory of a tensor that autograd does not watch.
_HANDLES = """
data detach numpy data_ptr storage untyped_storage _typed_storage as_strided as_tensor asarray
__array__ __dlpack__ __cuda_array_interface__ to_dlpack from_dlpack
""".split()  # noqa: SIM905
#: What only reads, and returns nothing that shares memory with what it reads. Many are not in this
#: list: they cost a copy of the parameters that autograd does not protect.
_READING = """
linear bilinear matmul mm bmm mv addmm baddbmm einsum __matmul__ __rmatmul__ conv1d conv2d conv3d
conv_transpose1d conv_transpose2d conv_transpose3d batch_norm layer_norm group_norm rms_norm
instance_norm embedding embedding_bag prelu scaled_dot_product_attention
multi_head_attention_forward lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell
rnn_relu_cell cat stack add sub mul div __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__
__truediv__ norm vector_norm square abs sum mean numel dim size stride is_floating_point is_complex
shape dtype device layout requires_grad requires_grad_ is_leaf grad grad_fn ndim is_cuda is_cpu
is_mps is_meta is_nested is_sparse is_quantized _version __len__ __hash__
""".split()  # noqa: SIM905

#: Arguments that make a function write which else only reads.
_WRITING = ("out", "max_norm", "inplace")

#: What a function does with its arguments: it may write to them, or lend them to others that do.
_Kind = Literal["reads", "may", "writes"]
_KINDS: dict[str, _Kind] = {**dict.fromkeys(_READING, "reads"), **dict.fromkeys(_HANDLES, "writes")}


def unguarded() -> AbstractContextManager[None]:
    """Computations of the package's own, which no mode needs to see."""
    context: AbstractContextManager[None] = torch._C.DisableTorchFunction()
    return context


class WriteGuard(TorchFunctionMode):
    """While entered, copies a watched parameter before the first call that may write to it.

    What is written without a call of torch is not seen: by an extension, another thread, an alias
    of NumPy's. So it watches only over parameters on `device` that it may not simply `copy`; where
    that is left open, over those for which there is no room.
    """

    def __init__(self, device: torch.device, copy: bool | None = None) -> None:
        super().__init__()
        self._device, self._copy_all = device, copy
        self._by_id: dict[int, Tensor] = {}
        self._by_memory: dict[int, list[Tensor]] = {}
        self._copies: dict[int, Tensor] = {}
        self._kinds: dict[Any, _Kind] = {}
        self._unprotected = False

    @cached_property
    def _room(self) -> float:
        """Bytes of parameters that may still be copied at once."""
        if self._copy_all is not None:
            return math.inf if self._copy_all else 0
        free = free_bytes(self._device)
        return math.inf if free is None else free / SHARE

    @property
    def copies_all(self) -> bool:
        """Whether all is to be copied beforehand, come what may."""
        return self._copy_all is True

    @property
    def watches(self) -> bool:
        """Whether there is anything to watch."""
        return bool(self._by_id)

    def watch(self, tensor: Tensor) -> bool:
        """Watch over a tensor if it is a large parameter; false for what is to be copied."""
        plain = type(tensor) is nn.Parameter and tensor.layout is torch.strided
        if not plain or tensor.numel() < LARGE or tensor.is_inference():
            return False
        if tensor.nbytes <= self._room:
            self._room -= tensor.nbytes
            return False
        self._by_id[id(tensor)] = tensor
        self._by_memory.setdefault(address_of(tensor), []).append(tensor)
        self._unprotected |= not tensor.requires_grad
        return True

    def copy_of(self, parameter: Tensor) -> Tensor | None:
        """What a parameter held, None where nothing can have written to it."""
        return self._copies.get(id(parameter))

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kind = self._kinds.get(func)
        if kind is None:
            kind = self._kinds[func] = _kind_of(func)
        if kind == "writes" or (kwargs and _is_told_to_write(kwargs)):
            with unguarded():
                for tensor in tensors((args, kwargs)):
                    for parameter in self._by_memory.get(address_of(tensor), ()):
                        self._copy(parameter)
        elif kind == "may" and (self._unprotected or not torch.is_grad_enabled()):
            with unguarded():
                for tensor in tensors((args, kwargs)):
                    if id(tensor) in self._by_id and not _protected(tensor):
                        self._copy(tensor)
        return func(*args, **(kwargs or {}))

    def _copy(self, parameter: Tensor) -> None:
        if id(parameter) not in self._copies:
            self._copies[id(parameter)] = parameter.detach().clone()


def _protected(parameter: Tensor) -> bool:
    """Whether autograd would refuse a change in place, of the parameter or of a view of it."""
    return torch.is_grad_enabled() and parameter.requires_grad


def _is_told_to_write(kwargs: Mapping[str, Any]) -> bool:
    given = (kwargs.get(name) for name in _WRITING)
    return any(value is not None and value is not False for value in given)


def _kind_of(func: Any) -> _Kind:
    name = getattr(func, "__name__", "")
    if name in ("__get__", "__set__"):
        attribute = getattr(getattr(func, "__self__", None), "__name__", "")
        return _KINDS.get(attribute, "may" if name == "__get__" else "reads")
    if isinstance(func, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        return "writes" if _is_mutable(func) else "may"
    return _named(name)


def _named(name: str) -> _Kind:
    known = _KINDS.get(name)
    if known is not None:
        return known
    in_place = name.endswith("_") and not name.endswith("__")
    return (
        "writes" if in_place or name.startswith(("__i", "__set", "_foreach", "_fused")) else "may"
    )


def _is_mutable(func: Any) -> bool:
    if isinstance(func, torch._ops.OpOverload):
        return bool(func._schema.is_mutable)
    return any(getattr(func, name)._schema.is_mutable for name in func.overloads())

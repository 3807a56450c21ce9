"""What modules and plain objects hold, noted before a probe and put back after it."""

from __future__ import annotations

import copy
import operator
import random
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.isolation.write_guard import WriteGuard
from pytest_gradhealth.tensors.unwrap import own_part


def held_tensors(module: nn.Module) -> Iterable[Tensor]:
    """The tensors in a module: parameters, buffers, and those in attributes and containers."""
    return _Contents(module).tensors.values()


def restore_module(root: nn.Module, guard: WriteGuard) -> Callable[[], None]:
    """Note what a module and all in it hold; return what puts it back."""
    contents = _Contents(root)
    kept = [_Kept.of(tensor, guard) for tensor in contents.tensors.values()]

    def undo() -> None:
        contents.put_back()
        _put_back(kept, guard)

    return undo


class _Contents:
    """What a module holds, all the way down: attributes, containers, generators and tensors."""

    #: Longer containers are put back themselves, but not what is in their items.
    longest = 10_000

    def __init__(self, root: nn.Module) -> None:
        self.tensors: dict[int, Tensor] = {}
        self._containers: list[tuple[Any, Any]] = []
        self._empty: list[Any] = []
        self._others: list[Callable[[], object]] = []
        seen: set[int] = set()
        waiting: list[Any] = [root]
        while waiting:
            value = waiting.pop()
            if id(value) not in seen:
                seen.add(id(value))
                for item in self._keep(value):
                    kind = type(item)
                    if kind in _ATOMS:
                        continue
                    if (kind is dict or kind is OrderedDict) and not item:
                        self._empty.append(item)  # most of what a module holds
                    else:
                        waiting.append(item)

    def _keep(self, value: Any) -> Iterable[Any]:
        """Note one value and return what is in it."""
        if isinstance(value, Tensor):
            self.tensors[id(value)] = value
        elif isinstance(value, nn.Module):
            return self._keep_dict(value.__dict__)
        elif isinstance(value, dict):
            return self._keep_dict(value)
        elif isinstance(value, tuple):
            return value
        elif isinstance(value, (list, set, deque)):
            base = next(kind for kind in (list, set, deque) if isinstance(value, kind))
            self._containers.append((value, base(value)))
            return value if len(value) <= self.longest else ()
        elif isinstance(value, torch.Generator):
            self._others.append(partial(value.set_state, value.get_state()))
        elif isinstance(value, random.Random):
            self._others.append(partial(value.setstate, value.getstate()))
        elif _is_of_numpy(value, "random.Generator"):
            state = copy.deepcopy(value.bit_generator.state)
            self._others.append(partial(setattr, value.bit_generator, "state", state))
        elif _is_of_numpy(value, "random.RandomState"):
            self._others.append(partial(value.set_state, value.get_state()))
        elif _is_array(value):
            self._others.append(partial(value.__setitem__, ..., value.copy()))
        elif _is_plain_object(value):
            return self._keep_dict(value.__dict__)
        return ()

    def _keep_dict(self, value: dict[Any, Any]) -> Iterable[Any]:
        if not value:
            self._empty.append(value)
            return ()
        self._containers.append((value, dict(value)))
        return value.values() if len(value) <= self.longest else ()

    def put_back(self) -> None:
        """Make everything hold what it held; containers that still do are not touched."""
        for undo in self._others:
            undo()
        for container in self._empty:
            if container:
                container.clear()
        for container, content in self._containers:
            if isinstance(container, dict):
                if not _is_same_dict(container, content):
                    container.clear()
                    for key, value in content.items():
                        container[key] = value
            elif isinstance(container, set):
                if container != content:
                    container.clear()
                    container.update(content)
            elif not _is_same_sequence(container, content):
                container.clear()
                container.extend(content)


#: What holds nothing that could change.
_ATOMS = frozenset(
    {
        *(bool, int, float, complex, str, bytes, type(None), type, torch.dtype, torch.device),
        *(types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType),
    }
)


def _is_plain_object(value: object) -> bool:
    """Whether a value is an object of the caller's own class, such as a meter or a running mean.

    Objects of libraries may stand for more than their attributes: a thread, a trainer, a file.
    """
    if isinstance(value, types.SimpleNamespace):
        return True
    if not isinstance(getattr(value, "__dict__", None), dict) or callable(value):
        return False
    library = type(value).__module__.partition(".")[0]
    return library not in _LIBRARIES and library not in sys.stdlib_module_names - {"__main__"}


#: Libraries whose objects are left alone.
_LIBRARIES = frozenset(
    {"torch", "numpy", "lightning", "pytorch_lightning", "transformers", "torchmetrics"}
)


def _is_of_numpy(value: object, name: str) -> bool:
    """Whether a value is of a class of numpy, if that has been imported."""
    found: Any = sys.modules.get("numpy")
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is not None and isinstance(value, found)


def _is_array(value: object) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray) and value.flags.writeable


def _is_same_dict(one: dict[Any, Any], other: dict[Any, Any]) -> bool:
    return _is_same_sequence(one, other) and _is_same_sequence(one.values(), other.values())


def _is_same_sequence(one: Collection[Any], other: Collection[Any]) -> bool:
    return len(one) == len(other) and all(map(operator.is_, one, other))


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a tensor was: value, memory, gradient, flags and hooks.

    `value` is None where a guard watches over it.
    """

    tensor: Tensor
    data: Tensor
    value: Tensor | None
    leaf: bool
    requires_grad: bool
    gradient: Tensor | None
    hooks: tuple[_Hooks, _Hooks]
    registered: tuple[_Hooks, _Hooks]

    @classmethod
    def of(cls, tensor: Tensor, guard: WriteGuard) -> _Kept:
        """Note what a tensor is and empty its gradient."""
        leaf, hooks = tensor.is_leaf, _hooks_of(tensor)
        gradient = tensor.grad if leaf else None
        if gradient is not None:
            tensor.grad = None
        return cls(
            tensor,
            tensor.data,
            None if guard.watch(tensor) else tensor.detach().clone(),
            leaf,
            tensor.requires_grad,
            gradient,
            hooks,
            hooks if hooks == (None, None) else (dict(hooks[0] or {}), dict(hooks[1] or {})),
        )

    def put_back_memory(self, before: Tensor | None) -> bool:
        """Give the tensor its memory again; return whether `before` has to be written to it."""
        tensor, data = self.tensor, self.data
        if self.leaf and not tensor.is_leaf and not tensor._is_view():
            tensor.detach_()
        if data.layout != torch.strided:
            assert before is not None
            tensor.data = before
            return False
        if not _is_same_memory(tensor, data):
            tensor.data = data
        return before is not None and not _overlaps_itself(data)

    def put_back_flags(self) -> None:
        """Give the tensor its flags, gradient and hooks again."""
        tensor = self.tensor
        if tensor.is_leaf:
            if tensor.requires_grad != self.requires_grad:
                tensor.requires_grad_(self.requires_grad)
            if tensor.grad is not self.gradient:
                tensor.grad = self.gradient
        hooks = _hooks_of(tensor)
        if hooks == self.registered == (None, None):
            return
        for now, mapping, content in zip(hooks, self.hooks, self.registered, strict=True):
            for known in (now, mapping):
                if known is not None:
                    known.clear()
            if mapping is not None:
                mapping.update(content or {})
        if tensor._backward_hooks is not self.hooks[0]:
            tensor._backward_hooks = self.hooks[0]


def _put_back(kept: Iterable[_Kept], guard: WriteGuard) -> None:
    """Undo what happened to tensors.

    Values are written through `.data`, which leaves no trace in the version counter: a graph that
    the caller built before can still be back-propagated. Raises ProbeError for what the guard has
    missed.
    """
    kept = list(kept)
    missed = [one.tensor for one in kept if guard.missed(one.tensor)]
    together: tuple[list[Tensor], list[Tensor]] = [], []
    with torch.no_grad():
        for one in kept:
            before = guard.copy_of(one.tensor) if one.value is None else one.value
            if not one.put_back_memory(before) or before is None:
                continue
            if one.data.dtype in _COMMON and type(one.data) is Tensor and not one.data.is_neg():
                together[0].append(one.data)
                together[1].append(before)
            else:
                one.data.copy_(before)
        if together[0]:
            torch._foreach_copy_(*together)
    for one in kept:
        one.put_back_flags()
    if missed:
        raise ProbeError(
            f"a parameter of shape {tuple(missed[0].shape)} was written to during the probe in a"
            " way that cannot be seen before it happens, and stays changed; probe a copy of the"
            " model: copy.deepcopy(model)"
        )


#: What torch can copy in one call for many tensors, whatever else is true of them.
_COMMON = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64)
#: The hooks on a tensor by their ids, None where there never were any.
_Hooks = dict[int, Any] | None


def _hooks_of(tensor: Tensor) -> tuple[_Hooks, _Hooks]:
    return tensor._backward_hooks, tensor._post_accumulate_grad_hooks


def _is_same_memory(tensor: Tensor, data: Tensor) -> bool:
    tensor, data = own_part(tensor), own_part(data)
    return (
        tensor.layout == data.layout
        and tensor.data_ptr() == data.data_ptr()
        and tensor.shape == data.shape
        and tensor.stride() == data.stride()
    )


def _overlaps_itself(data: Tensor) -> bool:
    """Whether elements share memory, as in an expanded tensor: that cannot be written anyway."""
    return any(n > 1 and step == 0 for n, step in zip(data.shape, data.stride(), strict=True))

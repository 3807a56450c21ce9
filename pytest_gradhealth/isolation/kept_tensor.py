"""What a tensor was before a probe, and how it becomes that again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytest_gradhealth.isolation.lazy_copy import is_held_by_others, lazy_copy, settle
from pytest_gradhealth.isolation.write_guard import WriteGuard
from pytest_gradhealth.tensors.norms import l2_norm
from pytest_gradhealth.tensors.storage import address_of, has_memory, size_of, span
from pytest_gradhealth.tensors.unwrap import own_part, parts

#: Elements of each tensor that are compared one by one.
SAMPLE = 64
#: What torch can copy in one call for many tensors, whatever else is true of them.
_COMMON = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64)
#: The hooks on a tensor by their ids, None where there never were any.
_Hooks = dict[int, Any] | None


@dataclass(frozen=True, slots=True)
class KeptTensor:
    """What a tensor was: value, memory, gradient and flags.

    `value` is None where a guard watches over it, which leaves some `numbers` of it to compare, or
    where it has no memory; where it is `lazy`, it lies in the memory of the tensor itself until
    something writes there. `size` are the bytes of that memory, `gradient_value` those of a
    gradient that shares its memory with others.
    """

    tensor: Tensor
    data: Tensor
    size: int
    value: Tensor | None
    lazy: bool
    numbers: tuple[Tensor, ...]
    leaf: bool
    requires_grad: bool
    gradient: Tensor | None
    gradient_value: Tensor | None
    hooks: tuple[_Hooks, _Hooks]

    @classmethod
    def of(cls, tensor: Tensor, guard: WriteGuard, *, lazily: bool = True) -> KeptTensor:
        """Note what a tensor is, with a copy that is made at once if it must not be `lazily`."""
        leaf, data = tensor.is_leaf, tensor.data
        gradient = tensor.grad if leaf else None
        shared = gradient is not None and _shares_memory(gradient)
        present = has_memory(data)
        may_wait = lazily and present and not guard.copies_all
        value = lazy = lazy_copy(tensor, data) if may_wait else None
        watched = present and lazy is None and guard.watch(tensor)
        if present and lazy is None and not watched:
            value = _writable(data).clone()
        return cls(
            tensor,
            data,
            size_of(data),
            value,
            lazy is not None,
            tuple(numbers_of(data)) if watched else (),
            leaf,
            tensor.requires_grad,
            gradient,
            gradient.detach().clone() if gradient is not None and shared else None,
            (tensor._backward_hooks, tensor._post_accumulate_grad_hooks),
        )

    def empty_gradient(self) -> None:
        """Set the gradient aside, for a run to make its own."""
        if self.gradient is not None:
            self.tensor.grad = None

    def put_back_memory(self) -> None:
        """Give the tensor its memory again, of the size that it was."""
        tensor, data = self.tensor, self.data
        if self.leaf and not tensor.is_leaf and not tensor._is_view():
            tensor.detach_()
        if not _is_same_memory(tensor, data):
            tensor.data = data
        if size_of(data) != self.size:
            data.untyped_storage().resize_(self.size)

    def put_back_lazily(self, before: Tensor) -> None:
        """Undo what was written, where the copy was left with the memory that was there."""
        data = self.data
        if address_of(data) == address_of(before):
            return
        if is_held_by_others(data):  # which are to know the tensor as ever
            with suppress(RuntimeError):  # memory that was resized may be past writing to
                data.copy_(before)
                return
        self.tensor.data = before

    def put_back_flags(self) -> None:
        """Give the tensor its flags, gradient and hooks again."""
        tensor, gradient = self.tensor, self.gradient
        if tensor.is_leaf:
            if tensor.requires_grad != self.requires_grad:
                tensor.requires_grad_(self.requires_grad)
            if tensor.grad is not gradient:
                tensor.grad = gradient
            if gradient is not None and self.gradient_value is not None:
                gradient.data.copy_(self.gradient_value)
        # What is in them is put back as that of any other container.
        for hooks in (tensor._backward_hooks, tensor._post_accumulate_grad_hooks):
            if hooks is not None and not any(hooks is known for known in self.hooks):
                hooks.clear()
        if tensor._backward_hooks is not self.hooks[0]:
            tensor._backward_hooks = self.hooks[0]

    def is_still(self, guard: WriteGuard) -> bool:
        """Whether a tensor that was watched over, and not copied, holds the same numbers."""
        if not self.numbers or guard.copy_of(self.tensor) is not None:
            return True
        now = tuple(numbers_of(self.data)) if has_memory(self.data) else ()
        return len(now) == len(self.numbers) and all(map(same_bits, now, self.numbers))


def put_back(kept: Iterable[KeptTensor], guard: WriteGuard) -> list[Tensor]:
    """Undo what happened to tensors; return those that were changed and stay so.

    Values are written through `.data`, which leaves no trace in the version counter: a graph that
    the caller built before can still be back-propagated.
    """
    together: tuple[list[Tensor], list[Tensor]] = [], []
    with torch.no_grad():
        for one in kept:
            one.put_back_memory()
            before = guard.copy_of(one.tensor) if one.value is None else one.value
            if before is None:
                continue
            if one.lazy:
                one.put_back_lazily(before)
                continue
            if one.data.layout != torch.strided:
                for part, was in zip(parts(one.data), parts(before), strict=True):
                    part.copy_(was)
                continue
            data = _writable(one.data)
            plain = type(data) is Tensor and not data.is_neg() and not data.is_nested
            if plain and data.dtype in _COMMON:
                together[0].append(data)
                together[1].append(before)
            else:
                data.copy_(before)
        if together[0]:
            torch._foreach_copy_(*together)
        missed = [one.tensor for one in kept if not one.is_still(guard)]
    for one in kept:
        one.put_back_flags()
    return missed


def forget(kept: list[KeptTensor]) -> None:
    """Drop what was noted of tensors; those that share memory with a lazy copy own it again."""
    lazy = [one.tensor for one in kept if one.lazy]
    kept.clear()
    for tensor in lazy:
        settle(tensor)


def numbers_of(tensor: Tensor) -> Iterator[Tensor]:
    """Norm and some elements as float64 (float32 where a device has no more), if it has any."""
    tensor = own_part(tensor)
    if tensor.layout != torch.strided or not tensor.numel() or not has_memory(tensor):
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


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether all bits are the same, which those of NaN are as well."""
    same = one.view(torch.uint8), other.view(torch.uint8)
    return bool(one.shape == other.shape and torch.equal(*same))


def _is_same_memory(tensor: Tensor, data: Tensor) -> bool:
    tensor, data = own_part(tensor), own_part(data)
    if (tensor.layout, tensor.dtype) != (data.layout, data.dtype):
        return False
    if tensor.layout != torch.strided:
        return all(map(_is_same_memory, parts(tensor), parts(data)))
    if tensor.is_nested:
        return data.is_nested and address_of(tensor) == address_of(data)
    return bool(
        address_of(tensor) == address_of(data)
        and tensor.storage_offset() == data.storage_offset()
        and tensor.shape == data.shape
        and tensor.stride() == data.stride()
        and tensor.is_conj() == data.is_conj()
        and tensor.is_neg() == data.is_neg()
    )


def _writable(data: Tensor) -> Tensor:
    """All the memory of a tensor: of one whose elements share some, from the first to the last."""
    odd = type(data) is not Tensor or data.layout != torch.strided or data.is_nested
    if odd or data.is_contiguous():
        return data
    repeats = any(n > 1 and step == 0 for n, step in zip(data.shape, data.stride(), strict=True))
    return data.as_strided((span(data),), (1,)) if repeats or data.numel() > span(data) else data


def _shares_memory(gradient: Tensor) -> bool:
    """Whether a gradient lies in a buffer together with others."""
    return gradient.layout == torch.strided and (
        gradient._is_view() or size_of(gradient) > gradient.nbytes
    )

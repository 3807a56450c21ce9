"""What rounding alone does: to numbers that come in, or to all that are made on the way."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.dispatch import DispatchMode
from pytest_gradhealth.tensors.trees import map_tensors, tensors

#: By how much a number is moved at most: half a unit of the format, and so many of its own, of
#: which by less than one it would often round back.
HALF, OWN = 0.5, 2.0
#: The numbers of bits that formats have for digits, and integers of the size of those.
_BITS = {torch.float64: 52, torch.float32: 23, torch.float16: 10, torch.bfloat16: 7}
#: Bits that are lost in the sums of an operation; those of coarser formats are gathered in float32.
_LOST_IN_SUMS = {torch.float32: 4}
#: Operations that add up many numbers one after the other in the format that they are given.
_GATHERING = (
    "norm_backward",
    "convolution_backward",
    "embedding_dense_backward",
    "index_add",
    "index_put",
    "scatter",
    "cumsum",
)
#: How many numbers are drawn.
_STOCK = 2**18
_AS_INTEGERS = {torch.float64: torch.int64, torch.float32: torch.int32}


class Rounding(DispatchMode):
    """Rounds what every operation makes to a coarser format, up or down at random.

    So a run in a finer format shows what rounding may do in the coarser one, also where numbers
    cancel out (Monte Carlo arithmetic: D. S. Parker, 1997). What the coarser format holds stays.
    """

    def __init__(self, finer: torch.dtype, coarser: torch.dtype, seed: int) -> None:
        super().__init__()
        self._format, self._integers = finer, _AS_INTEGERS[finer]
        self._coarse = coarser
        bits = _BITS[coarser] - _LOST_IN_SUMS.get(coarser, 0)
        self._step = 1 << (_BITS[finer] - bits)
        self._seed, self._begin = seed, random.Random(seed)
        self._stocks = dict[torch.device, Tensor]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and round what it has made or written to; a view is neither."""
        kwargs = kwargs or {}
        gathered = [*self._gathered(func, args, kwargs)]
        out = func(*args, **kwargs)
        if out is None:
            return out
        for tensor, coarse in zip(tensors(out), gathered, strict=False):
            tensor.copy_(coarse)
        returns = func._schema.returns
        for returned, made in zip(returns, (out,) if len(returns) == 1 else out, strict=True):
            if returned.alias_info is None or returned.alias_info.is_write:
                for tensor in tensors(made):
                    self.round_(tensor)
        return out

    def batch(self, subject: Subject) -> Subject:
        """The subject with a batch that is rounded."""
        inputs, targets = map_tensors(self._rounded, (subject.inputs, subject.targets))
        return replace(subject, inputs=inputs, targets=targets)

    def weights(self, model: nn.Module) -> None:
        """Round parameters and buffers."""
        for tensor in (*model.parameters(), *model.buffers()):
            self.round_(tensor.data)  # no write that autograd counts

    def _rounded(self, tensor: Tensor) -> Tensor:
        if _is_learned(tensor):
            return tensor
        made = tensor.detach().clone()
        self.round_(made)
        return made.requires_grad_(tensor.requires_grad)

    def round_(self, tensor: Tensor) -> None:
        """Round a tensor in place."""
        if tensor.layout is not torch.strided or tensor.is_conj() or not tensor.numel():
            return
        plain = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        if plain.dtype is not self._format:
            return
        bits = plain.view(self._integers)
        drawn = self._drawn(bits)
        rounded = drawn.add_(bits).bitwise_and_(-self._step).view(self._format)
        if math.isfinite(plain.sum()) and math.isfinite(rounded.sum()):
            plain.copy_(rounded)
        else:  # what is finite stays so: the largest number there is masks what is padded
            both = plain.isfinite() & rounded.isfinite()
            plain.copy_(torch.where(both, rounded, plain))

    def _gathered(self, func: Any, args: Any, kwargs: Any) -> Iterator[Tensor]:
        """What an operation makes in the coarser format, if it gathers sums in what it is given."""
        if any(word in func._schema.name for word in _GATHERING):
            given = map_tensors(self._coarsened, (args, kwargs))
            with suppress(RuntimeError, NotImplementedError):
                yield from tensors(func(*given[0], **given[1]))

    def _coarsened(self, tensor: Tensor) -> Tensor:
        dtype = self._coarse if tensor.dtype is self._format else tensor.dtype
        return tensor.to(dtype, copy=True)  # it may be written to

    def _drawn(self, like: Tensor) -> Tensor:
        """Integers below the step: those of a stock, from anywhere on, since drawing takes long."""
        stock = self._stocks.get(like.device)
        if stock is None:
            generator = torch.Generator(like.device).manual_seed(self._seed)
            stock = torch.empty(_STOCK, dtype=like.dtype, device=like.device)
            self._stocks[like.device] = stock.random_(self._step, generator=generator)
        made = torch.empty_like(like)
        for part in torch.split(made.as_strided((made.numel(),), (1,)), _STOCK // 2):
            begin = self._begin.randrange(_STOCK - part.numel() + 1)
            part.copy_(stock[begin : begin + part.numel()])
        return made


def moved(subject: Subject, unit: float, generator: torch.Generator) -> Subject:
    """The subject with its floating inputs moved by at most some rounding units of themselves."""
    return replace(
        subject, inputs=map_tensors(lambda t: _moved(t, unit, generator), subject.inputs)
    )


def move_weights(model: nn.Module, unit: float, generator: torch.Generator) -> None:
    """Move every weight by at most some rounding units of itself."""
    for parameter in model.parameters():
        values = _moved(parameter, unit, generator).detach()
        parameter.data.copy_(values)  # no write that autograd counts


def _moved(tensor: Tensor, unit: float, generator: torch.Generator) -> Tensor:
    if not tensor.is_floating_point() or _is_learned(tensor):
        return tensor
    drawn = 2 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64) - 1
    most = max(HALF * unit, OWN * torch.finfo(tensor.dtype).eps)
    exact = tensor.detach().to("cpu", torch.float64) * (1 + most * drawn)
    return exact.to(tensor.device, tensor.dtype).requires_grad_(tensor.requires_grad)


def _is_learned(tensor: Tensor) -> bool:
    """Whether it is an input that is learned."""
    return tensor.is_leaf and tensor.requires_grad and not isinstance(tensor, nn.Parameter)

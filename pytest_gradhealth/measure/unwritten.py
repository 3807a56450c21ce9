"""Tensors of a model that nothing has ever written: NaN where fresh memory was filled with NaN."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import suppress

import torch
from torch import Tensor, nn

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.modules import named_parameters
from pytest_gradhealth.tensors.norms import to_numbers
from pytest_gradhealth.tensors.trees import tensors


def with_nan(model: nn.Module) -> dict[str, Tensor]:
    """Where the parameters and buffers of a model are NaN, by name, as far as any of them is."""
    held = dict(_plain(model))
    sums = to_numbers([t.sum().abs() for t in held.values()])
    suspects = (name for name, total in zip(held, sums, strict=True) if math.isnan(total))
    where = {name: held[name].isnan() for name in suspects}
    return {name: found for name, found in where.items() if bool(found.any())}


def never_written(subject: Subject, names: Collection[str], *, seed: int) -> tuple[str, ...]:
    """Which of some tensors of a model in filled memory its forward does not write, either.

    As one does that sets scales by its first batch. What is no parameter counts where the outputs
    are made of it: a cache may be written piece by piece.
    """
    model = subject.model
    with subject.isolated():
        broken = True
        with suppress(ProbeError, RuntimeError):
            outputs = Pass(subject, seed).forward()
            broken = any(bool(t.isnan().any()) for t in tensors(outputs))
        still, known = with_nan(model), named_parameters(model)
    left = [name for name in names if name in still]
    parameters = [name for name in left if name in known]
    return tuple(parameters or (left if broken else ()))


@torch.no_grad()
def _plain(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What can be asked for NaN: floating numbers in memory of their own."""
    named = {name: p for name, (p, _) in named_parameters(model).items()}
    for name, tensor in {**named, **dict(model.named_buffers())}.items():
        odd = tensor.is_meta or tensor.is_nested or tensor.layout is not torch.strided
        numbers = tensor.is_complex() or (tensor.is_floating_point() and tensor.element_size() > 1)
        if numbers and not odd and type(tensor) in (nn.Parameter, nn.Buffer, Tensor):
            yield name, tensor.detach()

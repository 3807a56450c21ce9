"""Weights and inputs moved by rounding units, to see what rounding alone does."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.trees import map_tensors

#: By how much a number is moved at most: half a unit of the format, and so many of its own, of
#: which by less than one it would often round back.
HALF, OWN = 0.5, 2.0


def moved(subject: Subject, unit: float, generator: torch.Generator) -> Subject:
    """The subject with its floating inputs moved by at most some rounding units of themselves."""
    return replace(
        subject, inputs=map_tensors(lambda t: _moved(t, unit, generator), subject.inputs)
    )


def move_weights(model: nn.Module, unit: float, generator: torch.Generator) -> None:
    """Move every weight by at most some rounding units of itself."""
    for parameter in model.parameters():
        parameter.data.copy_(_moved(parameter, unit, generator))  # no write that autograd counts


def _moved(tensor: Tensor, unit: float, generator: torch.Generator) -> Tensor:
    if not tensor.is_floating_point() or (
        tensor.is_leaf and tensor.requires_grad and not isinstance(tensor, nn.Parameter)
    ):
        return tensor
    drawn = 2 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64) - 1
    most = max(HALF * unit, OWN * torch.finfo(tensor.dtype).eps)
    exact = tensor.detach().to("cpu", torch.float64) * (1 + most * drawn)
    return exact.to(tensor.device, tensor.dtype)

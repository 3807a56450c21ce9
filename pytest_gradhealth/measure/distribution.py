"""How the weights of a model are distributed, for a baseline of its initialisation."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pytest_gradhealth.results.weights import WeightRecord
from pytest_gradhealth.tensors.modules import named_parameters
from pytest_gradhealth.tensors.unwrap import whole

#: How many elements tell whether some are copies, and up to how many values are no copies.
MOST, FEW_VALUES = 2**18, 16
#: Bytes of a number from which on two that are drawn are hardly ever the same.
_PRECISE = 4


def distributions(model: nn.Module) -> Iterator[WeightRecord]:
    """Yield mean, standard deviation, share of zeros and kurtosis of each parameter with elements.

    A shared one goes by the first of its names in the alphabet, as in a baseline.
    """
    for name, (parameter, others) in named_parameters(model).items():
        numbers = _numbers(parameter.detach())
        if numbers.numel():
            precise = parameter.element_size() >= _PRECISE
            yield _record(min(name, *others) if others else name, numbers, precise=precise)


def _record(name: str, numbers: Tensor, *, precise: bool) -> WeightRecord:
    mean = numbers.mean()
    apart = numbers - mean
    variance = apart.square().mean()
    fourth = apart.square().square().mean()
    return WeightRecord(
        name=name,
        elements=numbers.numel(),
        mean=float(mean),
        std=float(variance.sqrt()),
        zeros=float((numbers == 0).double().mean()),
        kurtosis=float(fourth / variance.square()) if float(variance) > 0 else 0.0,
        distinct=_distinct(numbers) if precise else 1.0,
    )


def _distinct(numbers: Tensor) -> float:
    """The share of numbers that are no copies, by the first of them that are not zero.

    1 where there are few values, which are drawn one by one, as signs are.
    """
    first = numbers[:MOST]
    first = first[first != 0]
    values = first.unique().numel()  # type: ignore[no-untyped-call]
    return values / first.numel() if values > FEW_VALUES else 1.0


def _numbers(tensor: Tensor) -> Tensor:
    """All elements in float64, complex ones as two."""
    dense = whole(tensor)
    return (torch.view_as_real(dense) if dense.is_complex() else dense).double().reshape(-1)

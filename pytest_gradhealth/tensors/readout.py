"""Numbers that wait on their devices, read together and found by their tensors."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from pytest_gradhealth.tensors.norms import to_numbers


class Readout:
    """The values of 0-dim tensors, brought to the host in one transfer per accelerator.

    None among the tensors stands for what was not measured.
    """

    def __init__(self, scalars: Iterable[Tensor | None]) -> None:
        # The tensors are kept, or others could take their ids.
        self._tensors = [scalar for scalar in scalars if scalar is not None]
        numbers = to_numbers(self._tensors)
        self._numbers = dict(zip(map(id, self._tensors), numbers, strict=True))

    def __getitem__(self, tensor: Tensor) -> float:
        return self._numbers[id(tensor)]

    def get(self, tensor: Tensor | None) -> float | None:
        """The value of a tensor that may not have been measured."""
        return None if tensor is None else self[tensor]

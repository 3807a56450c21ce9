"""Numbers are read together and found by their tensors, whatever has become of those."""

from __future__ import annotations

import gc

import pytest
import torch

from pytest_gradhealth.tensors.readout import Readout


def test_every_tensor_has_its_own_number() -> None:
    tensors = [torch.tensor(float(n)) for n in range(50)]
    numbers = Readout([None, *tensors, None, tensors[3]])
    assert [numbers[tensor] for tensor in reversed(tensors)] == [float(n) for n in range(50)][::-1]
    assert numbers.get(tensors[7]) == 7.0
    assert numbers.get(None) is None


def test_what_was_not_read_is_not_found() -> None:
    with pytest.raises(KeyError):
        Readout([torch.tensor(1.0)])[torch.tensor(1.0)]


def test_no_other_tensor_takes_the_place_of_one_that_was_read() -> None:
    numbers = Readout(torch.tensor(float(n)) for n in range(1000))
    gc.collect()
    for _ in range(1000):
        with pytest.raises(KeyError):
            numbers[torch.tensor(-1.0)]

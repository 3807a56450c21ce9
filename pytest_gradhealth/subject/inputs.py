"""What a model is called with: batches that it can take, and none that hold NaN."""

from __future__ import annotations

from torch import Tensor

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.tensors.devices import on_host
from pytest_gradhealth.tensors.storage import has_memory
from pytest_gradhealth.tensors.trees import tensors
from pytest_gradhealth.tensors.unwrap import packed, shape_of


def check_inputs(inputs: object) -> None:
    """Raise ProbeError for inputs that no gradient could be read from: empty, or with NaN.

    NaN on an accelerator is left to `check_numbers`: to see it is to wait for the device.
    """
    for position, tensor in enumerate(tensors(inputs)):
        numbers = packed(tensor)
        if position == 0 and numbers.numel() == 0:
            raise ProbeError(
                f"the batch is empty: the first input has shape {shape_of(tensor)};"
                " pass at least one example"
            )
        if tensor.is_meta:
            raise ProbeError(
                f"an input of shape {shape_of(tensor)} is on the meta device and holds no"
                " numbers; pass a real batch"
            )
        if on_host(numbers):
            _check_numbers(tensor)


def check_memory(batch: object) -> None:
    """Raise ProbeError for a tensor whose memory has been freed: reading it ends the process."""
    for tensor in tensors(batch):
        if not tensor.is_meta and not has_memory(tensor):
            raise ProbeError(
                f"the batch holds a tensor of shape {shape_of(tensor)} whose memory has been freed;"
                " pass one that still has its numbers"
            )


def check_numbers(inputs: object) -> None:
    """Raise ProbeError for inputs that hold NaN, wherever they are."""
    for tensor in tensors(inputs):
        _check_numbers(tensor)


def _check_numbers(tensor: Tensor) -> None:
    numbers = packed(tensor)
    if _holds_nan(numbers):
        where = f"{int(numbers.isnan().sum())} of {numbers.numel()} elements"
        raise ProbeError(
            f"the inputs hold NaN ({where} of an input of shape {shape_of(tensor)});"
            " clean the batch before the probe"
        )


def _holds_nan(numbers: Tensor) -> bool:
    """Whether there is a NaN; most tensors show in their sum, in one pass, that there is none."""
    if not (numbers.is_floating_point() or numbers.is_complex()):
        return False
    total = numbers.detach().sum()
    return bool(total.isnan()) and bool(numbers.isnan().any())

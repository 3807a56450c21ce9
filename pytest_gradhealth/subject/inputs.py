"""What a model is called with: batches that it can take, and none that hold NaN."""

from __future__ import annotations

from torch import Tensor
from torch.nn.parameter import is_lazy

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.formatting import told
from pytest_gradhealth.tensors.devices import on_host
from pytest_gradhealth.tensors.storage import has_memory
from pytest_gradhealth.tensors.trees import tensors
from pytest_gradhealth.tensors.unwrap import packed, shape_of


def check_batch(inputs: object, targets: object = None) -> None:
    """Raise ProbeError for inputs and targets that are not to be walked through, or no tensors."""
    for name, one, value in (("inputs", "an input", inputs), ("targets", "a target", targets)):
        try:
            found = list(tensors(value))
        except Exception as error:
            raise ProbeError(
                f"{name} cannot be read ({told(error)}); pass tensors, or tuples,"
                " lists and mappings of tensors that do not hold themselves"
            ) from error
        for tensor in found:
            _check_real(one, tensor)


def _check_real(name: str, tensor: Tensor) -> None:
    if is_lazy(tensor):
        raise ProbeError(f"{name} is a lazy parameter without a shape; pass a real batch")
    where = "on the meta device" if tensor.is_meta else "" if has_memory(tensor) else "freed"
    if where:
        raise ProbeError(
            f"{name} of shape {shape_of(tensor)} is {where} and holds no numbers; pass a real batch"
        )


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
        if on_host(numbers):
            _check_numbers(tensor)


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
    numbers = numbers.detach()
    numbers = numbers.float() if numbers.element_size() == 1 else numbers
    total = numbers.sum()
    return bool(total.isnan()) and bool(numbers.isnan().any())

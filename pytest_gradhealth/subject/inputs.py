"""What a model is called with: batches that can be probed, and NaN that does harm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.formatting import told
from pytest_gradhealth.tensors.storage import has_memory
from pytest_gradhealth.tensors.trees import map_tensors, tensors
from pytest_gradhealth.tensors.unwrap import computable, packed, parts, shape_of


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
    """Raise ProbeError for inputs of which no tensor holds an element.

    One without columns or rows beside others (no categorical features, no memory yet) is none.
    """
    found = list(tensors(inputs))
    if found and not any(packed(tensor).numel() for tensor in found):
        raise ProbeError(_is_empty("the first input", found[0]))


def check_outputs(inputs: object, outputs: object) -> None:
    """Raise ProbeError where nothing comes out because an input holds no example."""
    made, given = list(tensors(outputs)), [t for t in tensors(inputs) if shape_of(t)[:1] == (0,)]
    if made and given and not any(packed(tensor).numel() for tensor in made):
        raise ProbeError(_is_empty("an input", given[0]))


def _is_empty(name: str, tensor: Tensor) -> str:
    return f"the batch is empty: {name} has shape {shape_of(tensor)}; pass at least one example"


def check_numbers(inputs: object) -> None:
    """Raise ProbeError for inputs that hold NaN or +inf; -inf is a mask, and a healthy input."""
    for fault in faults(inputs):
        raise ProbeError(_to_be_cleaned(fault))


def holds_nan(inputs: object) -> bool:
    """Whether some values are missing, or are no numbers."""
    return any(faults(inputs))


def with_zeros(inputs: Any) -> Any:
    """The inputs with zeros in place of NaN and +inf; raises ProbeError where that cannot be."""
    return map_tensors(_with_zeros, inputs)


def faults(inputs: object) -> Iterator[str]:
    """What inputs hold besides numbers."""
    return filter(None, map(_fault_of, tensors(inputs)))


def _fault_of(tensor: Tensor) -> str:
    """What a tensor holds that is no number, and how much of it; "" for nothing."""
    floating = (v for v in parts(packed(tensor)) if v.is_floating_point() or v.is_complex())
    values = [computable(v.detach()) for v in floating]
    elements = sum(v.numel() for v in values)
    for name, found in (("NaN", torch.isnan), ("inf", torch.isposinf)):
        count = sum(int(found(part).sum()) for v in values for part in _real_parts(v))
        if count:
            where = f"{count} of {elements} elements of an input of shape {shape_of(tensor)}"
            return f"the inputs hold {name} ({where})"
    return ""


def _real_parts(values: Tensor) -> tuple[Tensor, ...]:
    return (values.real, values.imag) if values.is_complex() else (values,)


def _to_be_cleaned(fault: str) -> str:
    return f"{fault}; clean the batch before the probe, or have the model do so"


def _with_zeros(tensor: Tensor) -> Tensor:
    fault = _fault_of(tensor)
    if not fault:
        return tensor
    try:
        clean = tensor.detach().nan_to_num(0.0, 0.0, -math.inf)
    except NotImplementedError as error:
        raise ProbeError(_to_be_cleaned(fault)) from error
    return clean.requires_grad_(tensor.requires_grad)

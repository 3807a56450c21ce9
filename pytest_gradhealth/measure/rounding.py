"""Gradients that are nothing but rounding: zero, as mathematics goes, and not quite in floats.

The gradient of twice the loss is twice the gradient. What rounding leaves of a zero is as large,
whatever the loss is multiplied by, and points elsewhere each time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from pytest_gradhealth.measure.every_gradient import read_every_gradient
from pytest_gradhealth.measure.recorder import Key
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.unwrap import packed

#: What the loss is multiplied by: no power of two, which rounds the same way.
FACTOR = 0.7
#: Square roots of its format's precision by which a gradient may differ from what it was.
TOLERANCE = 10.0
#: Directions that gradients are compared along: waves of other lengths each.
_WAVES = (0.7, 1.3, 1.9, 2.9)


def rounding(subject: Subject, *, seed: int) -> tuple[Collection[Key], Collection[str]]:
    """Return the module outputs and the parameters whose gradient is nothing but rounding.

    Raises ProbeError if the model or the loss fails.
    """
    found = []
    for factor in (1.0, FACTOR):
        with subject.isolated():  # a forward may change what the next one computes
            found.append(_shadows(subject, factor, seed))
    (outputs, parameters), (others, their_parameters) = found
    return _unlike(outputs, others), _unlike(parameters, their_parameters)


def _shadows(
    subject: Subject, factor: float, seed: int
) -> tuple[dict[Key, Tensor], dict[str, Tensor]]:
    """What each gradient is along some directions, the factor taken out; see `_shadow`."""
    marks, parameters = read_every_gradient(subject, _shadow, seed=seed, factor=factor)
    outputs = {m.key: m.gradient / factor for m in marks if m.gradient is not None}
    return outputs, {name: shadow / factor for name, shadow in parameters.items()}


def _shadow(gradient: Tensor) -> Tensor:
    """A gradient along some directions, behind how much rounding may change of it."""
    values = packed(gradient.detach())
    values = values.to_dense() if values.is_sparse else values
    values = torch.view_as_real(values) if values.is_complex() else values
    values = values.reshape(-1)
    wide = values.to(torch.float32 if values.device.type == "mps" else torch.float64)
    places = torch.arange(1, wide.numel() + 1, device=wide.device, dtype=wide.dtype)
    allowed = TOLERANCE * math.sqrt(torch.finfo(values.dtype).eps) * wide.norm()
    return torch.stack([allowed, *(wide @ (places * wave).cos() for wave in _WAVES)])


def _unlike(ones: Mapping[Any, Tensor], others: Mapping[Any, Tensor]) -> set[Any]:
    return {
        key
        for key, one in ones.items()
        if key in others and bool((one - others[key])[1:].abs().max() > one[0])
    }

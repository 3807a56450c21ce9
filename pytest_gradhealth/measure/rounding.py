"""Gradients that are nothing but rounding: zero, as mathematics goes, and not quite in floats.

The gradient of twice the loss is twice the gradient. What rounding leaves of a zero is as large,
whatever the loss is multiplied by, and points elsewhere each time.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from pytest_gradhealth.measure.every_gradient import read_every_gradient
from pytest_gradhealth.measure.recorder import Key
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.unwrap import packed

#: What the loss is multiplied by: no power of two, which rounds the same way.
FACTOR = 0.7
#: Of its own norm, how far a gradient may differ from what it was, the factor taken out: in few
#: bits of a low precision by some hundredths.
TOLERANCE = 0.1
#: Directions that gradients are compared along: waves of other lengths each.
_WAVES = (0.7, 1.3, 1.9, 2.9)


def rounding(subject: Subject, *, seed: int) -> Collection[Key]:
    """Return the module outputs whose gradient does not grow with the loss, as rounding does not.

    Neither does what a backward cuts or normalises, which is no small matter: only what is tiny
    beside the gradient that it is made of is rounding. Raises ProbeError if the model or the loss
    fails.
    """
    ours, theirs = (_shadows(subject, factor, seed) for factor in (1.0, FACTOR))
    return {key for key, one in ours.items() if key in theirs and _is_unlike(one, theirs[key])}


def _shadows(subject: Subject, factor: float, seed: int) -> dict[Key, Tensor]:
    """What each output's gradient is along some directions, the factor taken out."""
    with subject.isolated():  # a forward may change what the next one computes
        marks, _ = read_every_gradient(subject, _shadow, seed=seed, factor=factor)
    return {m.key: m.gradient / factor for m in marks if m.gradient is not None}


def _shadow(gradient: Tensor) -> Tensor:
    """A gradient along some directions, behind its norm."""
    values = packed(gradient.detach())
    values = values.to_dense() if values.is_sparse else values
    values = torch.view_as_real(values) if values.is_complex() else values
    values = values.reshape(-1)
    wide = values.to(torch.float32 if values.device.type == "mps" else torch.float64)
    places = torch.arange(1, wide.numel() + 1, device=wide.device, dtype=wide.dtype)
    return torch.stack([wide.norm(), *(wide @ (places * wave).cos() for wave in _WAVES)])


def _is_unlike(one: Tensor, other: Tensor) -> bool:
    return bool((one - other)[1:].abs().max() > TOLERANCE * one[0])

"""What a low-precision number format would make of the gradients, forecast from a float32 probe."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pytest_gradhealth.config.arguments import require
from pytest_gradhealth.config.values import as_float
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.measure.every_gradient import read_every_gradient
from pytest_gradhealth.results.magnitudes import FORMATS, LossScale, MagnitudeRecord
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.unwrap import dtype_name

#: Exponents of two that are counted, from here on: all of float32.
_LOWEST = -160
_BINS = 320


def declared_scale(precision: Any, loss_scale: Any) -> LossScale:
    """Read what the caller declared: a dtype or its name, and a number or a GradScaler.

    Raises ProbeError for a format that is not known and for scales that are not positive.
    """
    require(
        "loss_scale",
        loss_scale,
        lambda scale: scale is None or _is_scale(_number_of(scale)),
        "a positive number, or the torch.amp.GradScaler",
    )
    require(
        "precision",
        precision,
        lambda given: (
            given is None
            or (isinstance(given, (str, torch.dtype)) and _format_of(given) in FORMATS)
        ),
        f"{' or '.join(map(repr, FORMATS))}, or the dtype of that name",
    )
    name = "" if precision is None else _format_of(precision)
    scale = 1.0 if loss_scale is None else float(_number_of(loss_scale))
    return LossScale(name, scale, loss_scale is not None and _adapts(loss_scale))


def _adapts(loss_scale: Any) -> bool:
    return callable(getattr(loss_scale, "get_scale", None))


def _number_of(loss_scale: Any) -> Any:
    return loss_scale.get_scale() if _adapts(loss_scale) else loss_scale


def _is_scale(number: Any) -> bool:
    return 0 < (as_float(number) or 0.0) < math.inf


def _format_of(precision: Any) -> str:
    return str(precision).removeprefix("torch.")


def magnitudes(subject: Subject, *, seed: int) -> tuple[MagnitudeRecord, ...]:
    """Count the elements of every output's and every weight's gradient by their power of two.

    Biases are left out: those before a normalisation layer hold nothing but rounding. To be called
    inside `isolated`. Raises ProbeError for a model that is not in float32 or better.
    """
    _check_wide(subject.model)
    marks, parameters = read_every_gradient(subject, _by_exponent, seed=seed)
    weights = {name for name, p in subject.model.named_parameters() if p.dim() > 1}
    found: dict[tuple[str, str, int], Tensor] = {}
    for mark in marks:
        if mark.gradient is not None and mark.shape:  # early steps of a loop get what is left
            place = mark.name, mark.type, mark.output
            found[place] = mark.gradient + found.get(place, 0)
    weight = {(name, "weight", 0): counts for name, counts in parameters.items() if name in weights}
    return tuple(_record(name, kind, n) for (name, kind, _), n in (found | weight).items())


def _by_exponent(gradient: Tensor) -> Tensor:
    """How many elements lie in [2**e, 2**(e + 1)), for every e."""
    values = gradient.detach()
    values = values.coalesce().values() if values.is_sparse else values
    values = torch.view_as_real(values) if values.is_complex() else values
    values = values.abs().float().reshape(-1)
    exponents = torch.frexp(values[(values > 0) & values.isfinite()])[1] - 1
    return torch.bincount((exponents - _LOWEST).clamp(0, _BINS - 1), minlength=_BINS)


def _record(name: str, kind: str, counts: Tensor) -> MagnitudeRecord:
    listed = counts.tolist()
    filled = [index for index, count in enumerate(listed) if count]
    if not filled:
        return MagnitudeRecord(name, kind, 0, ())
    low, high = filled[0], filled[-1]
    return MagnitudeRecord(name, kind, low + _LOWEST, tuple(listed[low : high + 1]))


def _check_wide(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.dtype in (torch.float16, torch.bfloat16):
            dtype = dtype_name(parameter.dtype)
            raise ProbeError(
                f"{name} is {dtype} already, so that its gradient has been rounded before it can be"
                " measured; pass the model in float32 to forecast what rounding does"
            )

"""The loss of a probe: the caller's, the model's own, or a fixed random cotangent."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytest_gradhealth.errors import CutOffError, ProbeError
from pytest_gradhealth.formatting import listing, told
from pytest_gradhealth.subject.calling import loss_arguments, name_of
from pytest_gradhealth.subject.forward import describe
from pytest_gradhealth.tensors.trees import attribute, tensors
from pytest_gradhealth.tensors.unwrap import computable, is_one_number, odd_kind, packed, shape_of

Loss = Callable[..., Any]

#: What stands in for a loss where there is none, in words.
STAND_IN = "a random direction of the outputs"

#: Seed of the cotangent that stands in for a loss; the same for every probe.
COTANGENT_SEED = 20100513


@dataclass(frozen=True)
class Objective:
    """The scalar that is differentiated, and what it is, in words."""

    value: Tensor
    name: str


def objective(outputs: Any, targets: Any, loss: Loss | None) -> Objective:
    """Return the scalar to differentiate.

    With `loss`: `loss(outputs, targets)`, or `loss(outputs)` without targets. Without: the model's
    own loss, else the inner product of the outputs with a fixed random cotangent of unit norm. A
    loss is one scalar, alone, under "loss" or beside what is none, or the sum of a mapping of
    scalars. Raises ProbeError if that is not a scalar that depends on the model.
    """
    if loss is not None:
        value = _called_loss(outputs, targets, loss)
        found, part = _loss_in(tuple(value) if type(value) is list else value) or (value, "")
        return Objective(_checked(found, "the loss"), f"loss {name_of(loss)}{part}")
    own = _loss_in(outputs)
    if own is not None:
        return Objective(_checked(own[0], "the model's own loss"), f"the model's own loss{own[1]}")
    _check_lacks(outputs, targets)
    return Objective(_cotangent_product(outputs), STAND_IN)


def scalar_loss(outputs: Any, targets: Any, loss: Loss | None) -> Tensor:
    """Return the scalar to differentiate, as `objective` does."""
    return objective(outputs, targets, loss).value


def has_loss(outputs: Any, loss: Loss | None) -> bool:
    """Whether there is a loss, given or the model's own, or a cotangent has to stand in for it."""
    return loss is not None or _loss_in(outputs) is not None


def _called_loss(outputs: Any, targets: Any, loss: Loss) -> Any:
    try:
        return loss(*loss_arguments(loss, outputs, targets))
    except Exception as error:
        raise ProbeError(
            f"loss {name_of(loss)} raised {told(error)}"
            f"\n  it was called with outputs: {describe(outputs)}; targets: {describe(targets)}"
        ) from error


def _loss_in(value: Any) -> tuple[Any, str] | None:
    """The loss in what a model or a loss returns, and which part that is, None without one."""
    own = value.get("loss") if isinstance(value, Mapping) else attribute(value, "loss")
    if own is not None:
        return own, ""
    if isinstance(value, Tensor):
        return (value, "") if value.dim() == 0 and value.requires_grad else None
    if isinstance(value, Mapping):
        summed = _sum_of_scalars(value)
        parts = [str(key) for key, part in value.items() if attribute(part, "requires_grad")]
        return None if summed is None else (summed, f" (the sum of {listing(parts)})")
    if isinstance(value, tuple):
        scalars = [
            (t, f" (number {i} of {len(value)})")
            for i, t in enumerate(value, 1)
            if isinstance(t, Tensor) and t.dim() == 0 and t.requires_grad
        ]
        return scalars[0] if len(scalars) == 1 else None
    return None


def _check_lacks(outputs: Any, targets: Any) -> None:
    """Raise ProbeError for outputs that were to have a loss among them, or be compared."""
    if _lacks_labels(outputs):
        raise ProbeError(
            "the model left its loss None: its inputs lack what it makes one of, most often"
            " labels; pass them with the inputs, for example {'input_ids': ids, 'labels': ids},"
            " or pass loss=... that makes a scalar of what the model returns"
            f" ({', '.join(outputs)})"
        )
    if _are_detections(outputs):
        raise ProbeError(
            "the model returns boxes and scores, which carry no loss: detectors make theirs in"
            " train mode, from targets among their inputs; call model.train() and pass"
            " (images, targets) as the inputs"
        )
    if targets is not None:
        raise ProbeError(
            "targets were given, but nothing to compare them with: the model returns no loss;"
            " pass loss=..., for example loss=torch.nn.functional.cross_entropy"
        )


def _lacks_labels(outputs: Any) -> bool:
    """Whether a model of transformers would have made a loss, had it been given labels."""
    theirs = any(
        kind.__name__ == "ModelOutput" and kind.__module__.partition(".")[0] == "transformers"
        for kind in type(outputs).__mro__
    )
    return theirs and hasattr(outputs, "loss")


def _are_detections(outputs: Any) -> bool:
    """Whether the outputs are what detectors find in each image: however many boxes, or none."""
    return isinstance(outputs, list) and any(
        isinstance(found, Mapping) and {"boxes", "scores"} <= found.keys() for found in outputs
    )


def _sum_of_scalars(values: Mapping[Any, Any]) -> Tensor | None:
    scalars = list(values.values())
    if not scalars or not all(isinstance(s, Tensor) and s.dim() == 0 for s in scalars):
        return None
    differentiable = [s for s in scalars if s.requires_grad]
    return torch.stack(differentiable).sum() if differentiable else None


def _cotangent_product(outputs: Any) -> Tensor:
    found = list(tensors(outputs))
    usable = [t for t in found if t.is_floating_point() or t.is_complex()]
    if not usable:
        kinds = ", ".join(sorted({str(t.dtype) for t in found})) or type(outputs).__name__
        raise ProbeError(
            f"the model returns nothing a gradient can flow back from ({kinds}) and no loss was"
            " given; pass loss=... that computes one from what the model returns"
        )
    usable = [computable(packed(t)) for t in usable if t.requires_grad]
    if not usable:
        raise CutOffError(
            "the model's outputs do not depend on its trainable parameters",
            "is something detached, or the forward wrapped in torch.no_grad()?",
            found,
        )
    if not any(t.numel() for t in usable):
        shapes = ", ".join(str(tuple(t.shape)) for t in usable)
        raise ProbeError(
            f"the model's outputs hold no numbers (shape {shapes}), so that no gradient can flow"
            " back from them; pass a batch for which there are some, or loss=..."
        )
    generator = torch.Generator().manual_seed(COTANGENT_SEED)
    directions = [torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in usable]
    size = math.sqrt(sum(float(direction.square().sum()) for direction in directions))
    total = torch.zeros((), device=usable[0].device)
    for tensor, direction in zip(usable, directions, strict=True):
        term = torch.sum(tensor * (direction / size).to(tensor.device, tensor.dtype))
        total = total + (term.real if term.is_complex() else term).to(total.device)
    return total


def _checked(value: Any, origin: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise ProbeError(f"{origin} is {_in_words(value)}")
    if not is_one_number(value):
        raise ProbeError(
            f"{origin} has shape {shape_of(value)}; reduce it to one number,"
            " for example with .mean()"
        )
    if not value.requires_grad:
        raise CutOffError(
            f"{origin} does not depend on the model's trainable parameters",
            "is something detached, or computed under torch.no_grad()?",
            [value],
        )
    if value.is_leaf and not isinstance(value, torch.nn.Parameter):
        raise CutOffError(
            f"{origin} does not depend on the model's trainable parameters",
            "it is a new tensor with requires_grad=True, which no gradient gets past; return the"
            " one that was computed",
            [value],
        )
    if odd_kind(value):
        raise ProbeError(f"{origin} is a {odd_kind(value)} tensor; return a dense one in float32")
    return value


def _in_words(value: Any) -> str:
    """What a loss is that is no tensor, and what to return instead."""
    if value is None:
        return "None; return the tensor, without calling backward() on it"
    kind = type(value).__name__
    if isinstance(value, (int, float)):
        return f"a {kind}, not a tensor; return the tensor itself, without .item() or float()"
    if isinstance(value, (Coroutine, Generator)):
        return f"a {kind}, not a tensor; return one, without async or yield"
    if type(value).__module__ == "numpy":
        return f"of numpy ({kind}), and no tensor; compute it in torch, without .numpy()"
    parts = value.values() if isinstance(value, Mapping) else value
    if isinstance(value, (tuple, list, Mapping)) and any(isinstance(p, Tensor) for p in parts):
        return f"a {kind} of several; return the scalar tensor that is to be differentiated"
    return f"a {kind}, not a tensor; return a scalar tensor"

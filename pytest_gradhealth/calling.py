"""How a probe calls the model and gets a scalar out of it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from pytest_gradhealth.devices import on_host
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.lightning import TrainingBatch, advice, returned, training_step
from pytest_gradhealth.packed import packed, shape_of
from pytest_gradhealth.tree import map_tensors, tensors
from pytest_gradhealth.wrappers import class_name

Loss = Callable[..., Any]

#: Seed of the cotangent that stands in for a loss; the same for every probe.
COTANGENT_SEED = 20100513


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


def fresh(value: Any, device: torch.device) -> Any:
    """Copy every tensor in `value` to `device`, cut off from the caller's graph.

    Floating tensors that require grad still do, as leaves of their own. Other objects with a
    `to` method (a tokenizer's batch, say) are moved by it.
    """

    def copied(tensor: Tensor) -> Tensor:
        return tensor.detach().clone().requires_grad_(tensor.requires_grad)

    def moved(tensor: Tensor) -> Tensor:
        return tensor.detach().clone().to(device).requires_grad_(tensor.requires_grad)

    def other(item: Any) -> Any:
        if isinstance(item, tuple) and hasattr(item, "_fields"):
            fields = (copied(field) if isinstance(field, Tensor) else field for field in item)
            return type(item)(*fields).to(device)  # type: ignore[attr-defined]
        try:
            return deepcopy(item).to(device)
        except Exception:
            return item.to(device)

    return map_tensors(moved, value, other)


def call_model(model: nn.Module, inputs: Any) -> Any:
    """Call the model: a tuple is spread over its arguments, a mapping over its keywords.

    A TrainingBatch goes to the `training_step` of a Lightning module.
    """
    in_step = isinstance(inputs, TrainingBatch)
    try:
        outputs = _called_model(model, inputs)
    except Exception as error:
        method = "training_step" if in_step else "forward"
        raise ProbeError(
            f"{class_name(model)}.{method} raised {type(error).__name__}: {error}"
            f"\n  it was called with {_describe(inputs)}" + (advice(error) if in_step else "")
        ) from error
    return returned(model, outputs) if in_step else outputs


def _called_model(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, TrainingBatch):
        return training_step(model, inputs.batch)
    if isinstance(inputs, tuple) and not hasattr(inputs, "_fields"):
        return model(*inputs)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(inputs)


def scalar_loss(outputs: Any, targets: Any, loss: Loss | None) -> Tensor:
    """Return the scalar to differentiate.

    With `loss`: `loss(outputs, targets)`, or `loss(outputs)` without targets. Without: the model's
    own (`outputs.loss`, the one scalar output, the sum of a mapping of scalars), else the inner
    product of the outputs with a fixed random cotangent of unit norm. Raises ProbeError if that is
    not a scalar that depends on the model.
    """
    if loss is not None:
        value = _called_loss(outputs, targets, loss)
        origin = "the loss"
    else:
        own = _own_loss(outputs)
        if own is None and _lacks_labels(outputs):
            raise ProbeError(
                "the model left its loss None: its inputs lack what it makes one of, most often"
                " labels; pass them with the inputs, for example {'input_ids': ids, 'labels': ids},"
                " or pass loss=... that makes a scalar of what the model returns"
                f" ({', '.join(outputs)})"
            )
        if own is None and _are_detections(outputs):
            raise ProbeError(
                "the model returns boxes and scores, which carry no loss: detectors make theirs in"
                " train mode, from targets among their inputs; call model.train() and pass"
                " (images, targets) as the inputs"
            )
        if own is None and targets is not None:
            raise ProbeError(
                "targets were given, but nothing to compare them with: the model returns no loss;"
                " pass loss=..., for example loss=torch.nn.functional.cross_entropy"
            )
        value = _cotangent_product(outputs) if own is None else own
        origin = "the model's own loss"
    return _checked(value, origin)


def _called_loss(outputs: Any, targets: Any, loss: Loss) -> Any:
    alone = targets is None and _accepts_one(loss)
    arguments: tuple[Any, ...] = (outputs,) if alone else (outputs, targets)
    try:
        return loss(*arguments)
    except Exception as error:
        name = getattr(loss, "__name__", type(loss).__name__)
        raise ProbeError(
            f"loss {name} raised {type(error).__name__}: {error}"
            f"\n  it was called with outputs: {_describe(outputs)}; targets: {_describe(targets)}"
        ) from error


def _accepts_one(loss: Loss) -> bool:
    try:
        inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).bind(None)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def _own_loss(outputs: Any) -> Any:
    """The loss among the outputs, None if there is none."""
    own = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if own is not None:
        return own
    if isinstance(outputs, Tensor):
        return outputs if outputs.dim() == 0 and outputs.requires_grad else None
    if isinstance(outputs, Mapping):
        return _sum_of_scalars(outputs)
    if isinstance(outputs, tuple):
        scalars = [t for t in outputs if isinstance(t, Tensor) and t.dim() == 0 and t.requires_grad]
        return scalars[0] if len(scalars) == 1 else None
    return None


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
    usable = [packed(t) for t in usable if t.requires_grad]
    if not usable:
        raise ProbeError(
            "the model's outputs do not depend on its trainable parameters; is something detached,"
            " or the forward wrapped in torch.no_grad()?"
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
    if isinstance(value, Mapping):
        summed = _sum_of_scalars(value)
        value = value if summed is None else summed
    if not isinstance(value, Tensor):
        is_number = isinstance(value, (int, float))
        wanted = "the tensor itself, without .item() or float()" if is_number else "a scalar tensor"
        raise ProbeError(f"{origin} is a {type(value).__name__}, not a tensor; return {wanted}")
    if value.numel() != 1:
        raise ProbeError(
            f"{origin} has shape {tuple(value.shape)}; reduce it to one number,"
            " for example with .mean()"
        )
    if not value.requires_grad:
        raise ProbeError(
            f"{origin} does not depend on the model's trainable parameters; is something detached,"
            " or computed under torch.no_grad()?"
        )
    return value


def _describe(value: Any) -> str:
    """Shapes and dtypes of the tensors in a nested value, briefly."""
    found = list(tensors(value))
    if not found:
        return type(value).__name__ if value is not None else "None"
    shown = ", ".join(f"{shape_of(t)} {str(t.dtype).removeprefix('torch.')}" for t in found[:4])
    return shown + (f" and {len(found) - 4} more" if len(found) > 4 else "")

"""What to pass instead to a loss that raises, by what it was handed and what the error says."""

from __future__ import annotations

import re
from collections.abc import Coroutine, Generator, Mapping
from inspect import isroutine
from typing import Any

import torch
from torch import Tensor

from pytest_gradhealth.formatting import listing
from pytest_gradhealth.subject.calling import fits, function_of, name_of, parameters_of
from pytest_gradhealth.subject.handed import (
    Handed,
    is_about,
    made_of,
    missing_key,
    no_tensors,
    reach_of,
    to_numpy,
)
from pytest_gradhealth.tensors.trees import attribute, tensors
from pytest_gradhealth.tensors.unwrap import dtype_name, shape_of


def _no_targets(handed: Handed) -> str:
    """No targets, or several that the loss takes for one."""
    targets = handed.targets
    if targets is None:
        needed = "NoneType" in handed.said and not fits(function_of(handed.loss), (handed.outputs,))
        return "no targets were given; pass them behind the inputs" if needed else ""
    kind = type(targets).__name__
    if not isinstance(targets, (tuple, list, Mapping)) or kind not in handed.said:
        return ""
    return f"the targets are a {kind}; pass one tensor, or loss=lambda outputs, targets: ..."


def _no_tensor_out(handed: Handed) -> str:
    """Outputs that a loss takes a part of."""
    outputs, part = handed.outputs, ""
    if isinstance(outputs, Tensor) or not isinstance(handed.cause, (TypeError, AttributeError)):
        return ""
    if outputs is None:
        if handed.call is not None:
            return "call=... returns None; have it return the outputs"
        return "the model returns None; have its forward return the outputs"
    if isinstance(outputs, (Coroutine, Generator)):
        kind = type(outputs).__name__
        return f"the model returns a {kind}; have its forward return, without async or yield"
    if isinstance(outputs, (tuple, list)) and not any(True for _ in tensors(outputs)):
        return f"the model returns a {type(outputs).__name__} without a tensor; return tensors"
    if isinstance(attribute(outputs, "logits"), Tensor):
        part = "outputs.logits"
    elif isinstance(outputs, Mapping):
        part = f"outputs[{next(iter(outputs), 'name')!r}]"
    elif isinstance(outputs, (tuple, list)):
        part = "outputs[0]"
    used = f"{_in_code(handed.loss)}({part}, targets)" if part else "..."
    return (
        f"the model returns a {type(outputs).__name__}; pass loss=lambda outputs, targets: {used}"
    )


def _arguments(handed: Handed) -> str:
    """A loss that takes something else than outputs and targets."""
    loss, alone = function_of(handed.loss), handed.targets is None
    if _takes_the_model(handed):
        return (
            "a loss gets what the model returns, and not the model; pass this function as call=..."
            ", and what else it takes as the inputs"
        )
    if not isinstance(handed.cause, TypeError) or any(
        fits(loss, form) for form in [(handed.outputs,) * 2, *[(handed.outputs,)] * alone]
    ):
        return ""
    taken = listing([*parameters_of(loss)], 6) or "nothing"
    what = "outputs" if alone else "outputs and targets"
    return f"it takes {taken}, and gets {what}; pass loss=lambda outputs, targets: ..."


def _takes_the_model(handed: Handed) -> bool:
    first = next(iter(parameters_of(function_of(handed.loss))), "")
    return first in ("model", "net", "network", "module") and isinstance(handed.outputs, Tensor)


def _no_attribute(handed: Handed) -> str:
    """An attribute that a tensor does not have, and a model's own outputs would."""
    error, outputs = handed.cause, handed.outputs
    if not isinstance(error, AttributeError) or not isinstance(outputs, Tensor):
        return ""
    if error.obj is not outputs:
        return ""
    return f"the model returns a tensor, which has no {error.name}; have the loss take it as it is"


def _swapped(handed: Handed) -> str:
    """A loss that takes the targets first, by its names or by what it makes of labels."""
    first, second, *_ = [*parameters_of(function_of(handed.loss)), "", ""]
    named = first in _OF_TARGETS and second in _OF_OUTPUTS
    if not named and not re.search(r"softmax.*not implemented for 'Long'", handed.said):
        return ""
    return "a loss gets the outputs first, then the targets; pass loss=lambda outputs, targets: ..."


def _differentiates(handed: Handed) -> str:
    if "differentiated Tensor" not in handed.said:
        return ""
    return (
        "the model got a copy of the batch: where the loss differentiates by it, pass a leaf that"
        " requires grad, x.detach().requires_grad_(), and have the loss use that"
    )


#: What targets and outputs are called.
_OF_TARGETS = {"t", "y", "target", "targets", "label", "labels", "true", "y_true", "gt", "truth"}
_OF_OUTPUTS = {"o", "out", "output", "outputs", "pred", "preds", "y_pred", "y_hat", "logits"}


def _whole_outputs(handed: Handed) -> str:
    """Outputs that are whole numbers, most often classes."""
    outputs = handed.outputs
    if not isinstance(outputs, Tensor) or outputs.is_floating_point() or outputs.is_complex():
        return ""
    kind = dtype_name(outputs.dtype)
    return f"the outputs are {kind}, which have no gradient; return the scores they are made of"


def _target_types(handed: Handed) -> str:
    """Targets of another type than the loss takes with the outputs."""
    if not isinstance(handed.outputs, Tensor):
        return ""
    out = handed.outputs.dtype
    classes = re.search(r"be (\w+ or )*Long|type Long but", handed.said)
    for target in tensors(handed.targets):
        kind = target.dtype
        if classes and kind != torch.int64:
            return f"the targets are {dtype_name(kind)}; pass y.long()"
        if kind != out and is_about(handed.said, kind):
            types = f"the targets are {dtype_name(kind)}, the outputs {dtype_name(out)}"
            return f"{types}; pass {made_of('y', out)}"
    return ""


def _target_shapes(handed: Handed) -> str:
    """Targets with a dimension of one that the outputs lack, or without one that they have.

    Also outputs whose classes come last.
    """
    outputs, targets = handed.outputs, handed.targets
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        return ""
    if not re.search(r"\bsize|shape|target", handed.said, re.IGNORECASE):
        return ""
    out, wanted = shape_of(outputs), shape_of(targets)
    if out == wanted:
        return ""
    shapes = f"the targets have shape {wanted}, the outputs {out}"
    for one in _places_of_one(out):
        if _without(out, one) == wanted:
            return f"{shapes}; pass y.unsqueeze({one})"
    for one in _places_of_one(wanted):
        if _without(wanted, one) in (out, out[:-1], out[:1] + out[2:]):
            return f"{shapes}; pass y.squeeze({one})"
    if len(out) > 2 and out[:-1] == wanted and not targets.is_floating_point():
        used = f"{_in_code(handed.loss)}(outputs.flatten(0, -2), targets.flatten())"
        return f"{shapes}; pass loss=lambda outputs, targets: {used}"
    if len(out) > 2 and (out[0], *out[2:], out[1]) == wanted:
        return f"{shapes}; pass y.movedim(-1, 1)"
    return ""


def _out_of_range(handed: Handed) -> str:
    """Labels of classes that the outputs do not have."""
    outputs, targets = handed.outputs, handed.targets
    if not re.search(r"is out of bounds|Class values must be", handed.said):
        return ""
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor) or outputs.dim() < 2:
        return ""
    low, high, n = int(targets.min()), int(targets.max()), outputs.shape[1]
    if low >= 0 and high < n:
        return ""
    says = f"the targets go {reach_of(targets)}, and the outputs have the classes 0 to {n - 1}"
    if low > 0 and high == n:
        return f"{says}; pass y - 1"
    if low < 0:
        return f"{says}; pass labels from 0 on, and ignore_index={low} for what is to be left out"
    return f"{says}; pass labels below {n}, or a model whose last layer returns {high + 1}"


def _between_0_and_1(handed: Handed) -> str:
    """Logits where a loss takes probabilities, or targets that are none."""
    found = re.search(r"of (input|target) should be between 0 and 1", handed.said)
    name = "outputs" if found and found[1] == "input" else "targets"
    values = getattr(handed, name)
    if not found or not isinstance(values, Tensor) or bool(values.isnan().any()):
        return ""
    says = f"the {name} go {reach_of(values)}, and the loss takes numbers between 0 and 1"
    if name == "targets":
        return f"{says}; pass targets that are probabilities, or nn.functional.mse_loss"
    return f"{says}; pass loss=torch.nn.functional.binary_cross_entropy_with_logits"


def _other_counts(handed: Handed) -> str:
    """Targets for more or fewer examples than there are, or one where there are many outputs."""
    outputs, targets = handed.outputs, handed.targets
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        return ""
    out, wanted = shape_of(outputs), shape_of(targets)
    if not out or not wanted or not re.search(r"\bsize|batch_size", handed.said, re.IGNORECASE):
        return ""
    if out[0] != wanted[0] and len(out) < 3:
        says = f"there are {wanted[0]} targets for {out[0]} outputs"
        return f"{says}; pass as many targets as examples, in the same order"
    if len(out) != 2 or wanted not in (out[:1], (*out[:1], 1)):
        return ""
    shapes = f"the targets have shape {wanted}, the outputs {out}"
    labels = bool(((targets == targets.round()) & (targets >= 0) & (targets < out[1])).all())
    if not labels:
        return f"{shapes}; pass {out[1]} targets for each, or a model whose last layer returns 1"
    return (
        f"{shapes}: they look like labels of classes; pass loss=torch.nn.functional.cross_entropy,"
        f" or torch.nn.functional.one_hot(y.long(), {out[1]}).float()"
    )


def _places_of_one(shape: tuple[int, ...]) -> list[int]:
    """The dimensions with one element, the last first."""
    return [i for i in reversed(range(len(shape))) if shape[i] == 1]


def _without(shape: tuple[int, ...], place: int) -> tuple[int, ...]:
    return shape[:place] + shape[place + 1 :]


def _in_code(loss: Any) -> str:
    """How code may call a loss: by its name, where that is one of a function."""
    name = name_of(loss)
    return name if isroutine(loss) and name.isidentifier() else "criterion"


#: The first that has something to say is heard.
OF_LOSSES = (
    *(to_numpy, missing_key, _arguments, no_tensors, _no_tensor_out, _no_targets, _swapped),
    *(_no_attribute, _whole_outputs, _differentiates),
    *(_target_types, _out_of_range, _between_0_and_1, _target_shapes, _other_counts),
)

"""Calling a model on fresh copies of a batch, and errors that say what to pass instead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.formatting import told
from pytest_gradhealth.isolation.isolate import is_lent
from pytest_gradhealth.subject.calling import as_called, name_of, spread
from pytest_gradhealth.subject.lightning import training_step
from pytest_gradhealth.tensors.modules import class_name
from pytest_gradhealth.tensors.trees import map_tensors, tensors
from pytest_gradhealth.tensors.unwrap import dtype_name, shape_of


def fresh(value: Any, device: torch.device) -> Any:
    """Copy every tensor in `value` to `device`, cut off from the caller's graph.

    Floating tensors that require grad still do, as leaves of their own, or as the very tensor where
    the loss may differentiate by that. Other objects with a `to` method (a tokenizer's batch, say)
    are moved by it.
    """

    def copied(tensor: Tensor) -> Tensor:
        return tensor.detach().clone().requires_grad_(tensor.requires_grad)

    def moved(tensor: Tensor) -> Tensor:
        if is_lent(tensor, device):
            tensor.grad = None  # that of another run; isolation has the caller's
            return tensor
        return tensor.detach().clone().to(device).requires_grad_(tensor.requires_grad)

    def other(item: Any) -> Any:
        if isinstance(item, tuple) and hasattr(item, "_fields"):
            fields = (copied(field) if isinstance(field, Tensor) else field for field in item)
            return type(item)(*fields).to(device)  # type: ignore[attr-defined]
        try:
            return deepcopy(item).to(device)
        except Exception:
            return item.to(device)

    try:
        return map_tensors(moved, value, other)
    except Exception as error:
        raise ProbeError(
            f"the batch cannot be copied to {device}: {told(error)}; pass"
            " tensors, or tuples, lists and mappings of tensors"
        ) from error


def call_model(model: nn.Module, inputs: Any) -> Any:
    """Call the model, or what is to call it, with inputs spread over its arguments."""
    called = as_called(inputs)
    call, (args, named) = called.call, spread(called.inputs)
    try:
        with _weights_made_anew():
            return model(*args, **named) if call is None else call(model, *args, **named)
    except ProbeError:
        raise  # a training step without a loss
    except Exception as error:
        given = args if len(args) != 1 else args[0]
        raise ProbeError(
            f"{_name_of(model, call)} raised {told(error)}"
            f"\n  it was called with {describe(named or given)}"
        ) from error


@contextmanager
def _weights_made_anew() -> Iterator[None]:
    """Make parametrised weights in the forward: what parametrize.cached() keeps is of another."""
    own = vars(parametrize)
    kept = own.get("_cache")
    own["_cache"] = {}
    try:
        yield
    finally:
        own["_cache"] = kept


def _name_of(model: nn.Module, call: Any) -> str:
    if call is None or call is training_step:
        return f"{class_name(model)}.{'forward' if call is None else 'training_step'}"
    return f"call {name_of(call)}"


def describe(value: Any) -> str:
    """Shapes and dtypes of the tensors in a nested value, briefly."""
    found = list(tensors(value))
    if isinstance(value, tuple) and not value:
        return "nothing"
    if not found:
        return type(value).__name__ if value is not None else "None"
    shown = ", ".join(f"{shape_of(t)} {dtype_name(t.dtype)}" for t in found[:4])
    return shown + (f" and {len(found) - 4} more" if len(found) > 4 else "")

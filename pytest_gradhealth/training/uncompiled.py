"""Optimizers of torch as they work, without what makes them fit for torch's compiler."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch.optim import Optimizer

Kind = TypeVar("Kind", bound=Optimizer)

#: Methods that load the compiler when they are first called, which takes longer than many probes.
_WRAPPED = ("add_param_group", "zero_grad", "step")


def uncompiled(kind: type[Kind]) -> type[Kind]:
    """The same optimizer under the same name, to the last bit; others than torch's as they are."""
    if not kind.__module__.startswith("torch.optim."):
        return kind
    methods = {name: _inside(getattr(kind, name)) for name in _WRAPPED}
    methods["step"] = torch.no_grad()(methods["step"])
    return type(kind.__name__, (kind,), {**methods, "__module__": kind.__module__})


def _inside(method: Any) -> Any:
    """What the wrappers of torch call, up to one of somebody else's."""
    while hasattr(method, "__wrapped__") and method.__globals__["__name__"].startswith("torch."):
        method = method.__wrapped__
    return method

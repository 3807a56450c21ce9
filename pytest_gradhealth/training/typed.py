"""An optimizer as one types it, with another learning rate."""

from __future__ import annotations

import inspect

import torch
from torch.optim import Optimizer

from pytest_gradhealth.training.together import members

#: What makes no other step.
_NO_MATTER = ("params", "lr", "fused", "foreach", "capturable", "differentiable")


def rates_of(optimizer: Optimizer) -> tuple[float, ...]:
    """The learning rates of all groups, each once."""
    rates = (group.get("lr") for group in optimizer.param_groups)
    return tuple(dict.fromkeys(float(rate) for rate in rates if rate is not None))


def typed(optimizer: Optimizer) -> str:
    """The call that makes it, with {} for its rate if any; "" for several, or several groups.

    >>> import torch
    >>> typed(torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.9))
    'torch.optim.SGD(model.parameters(), lr={}, momentum=0.9)'
    """
    if len(members(optimizer)) > 1 or len(optimizer.param_groups) > 1:
        return ""
    kind, (group,) = type(optimizer), optimizer.param_groups
    others = "".join(
        f", {name}={group[name]!r}"
        for name, parameter in inspect.signature(kind).parameters.items()
        if name in group and name not in _NO_MATTER and group[name] != parameter.default
    )
    of_torch = getattr(torch.optim, kind.__name__, None) is kind
    name = f"torch.optim.{kind.__name__}" if of_torch else kind.__name__
    rate = ", lr={}" if "lr" in group else ""
    return f"{name}(model.parameters(){rate}{others})"

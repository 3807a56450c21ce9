"""Dropout turned off, where two sides cannot draw the same random numbers."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.dropout import _DropoutNd


def without_dropout(model: nn.Module) -> None:
    """Have layers of torch drop nothing: the dropout layers, and those with a rate of their own."""
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.training = False
        elif isinstance(vars(module).get("dropout"), float):
            vars(module)["dropout"] = 0.0

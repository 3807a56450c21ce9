"""The training step as the caller declares it: clipping and penalty."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from pytest_gradhealth.config.arguments import require
from pytest_gradhealth.config.values import as_float

#: The largest L2 norm of all gradients together, or a function that clips those of a list.
Clip = float | Callable[[list[nn.Parameter]], object]
#: The penalty on a model's parameters, a scalar that is added to the loss.
Regularizer = Callable[[nn.Module], Any]


@dataclass(frozen=True)
class Step:
    """How a training step clips gradients and what it adds to the loss; None for not at all."""

    clip: Clip | None = None
    regularizer: Regularizer | None = None

    def __post_init__(self) -> None:
        most = None if callable(self.clip) else as_float(self.clip)
        if most is not None and most > 0:
            object.__setattr__(self, "clip", most)


def check_step(step: Step) -> None:
    """Raise ProbeError for a clip or a regularizer that cannot be one."""
    require(
        "clip",
        step.clip,
        lambda clip: clip is None or callable(clip) or (isinstance(clip, float) and clip > 0),
        "the largest gradient norm, for example 1.0, or a function that clips the gradients of a"
        " list of parameters",
    )
    require(
        "regularizer",
        step.regularizer,
        lambda penalty: penalty is None or callable(penalty),
        "a function of the model, for example lambda model: 1e-4 * sum(p.abs().sum() for p in"
        " model.parameters())",
    )

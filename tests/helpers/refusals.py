"""What a probe is refused with, and what raises when it is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import ProbeError, probe
from tests.helpers.nets import batch


def refusal(model: Any, inputs: Any = None, targets: Any = None, **arguments: Any) -> ProbeError:
    with pytest.raises(ProbeError) as caught:
        probe(model, batch()[0] if inputs is None else inputs, targets, **arguments)
    return caught.value


def check(error: ProbeError, message: str, cause: type[Exception] | None = None) -> None:
    assert str(error) == message
    assert type(error) is ProbeError
    assert type(error.__cause__) is (cause or type(None))


class Returning(nn.Module):
    """Passes what a linear layer returns through a function."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer = nn.Linear(20, 5)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.layer(x))


def raising(*_: object) -> Any:
    raise KeyError("nothing")


class Breaks(torch.autograd.Function):
    """The identity, with a backward that raises."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(*_: Any) -> Any:
        return raising()


class Nameless:
    """A callable without a name of its own, that raises."""

    def __call__(self, *_: object) -> Any:
        return raising()

"""What hooks see of the outputs of a module that are not all used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import probe


class Fused(torch.autograd.Function):
    """A sequence and its last state from one operation, as cuDNN has them."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.tanh(), x[:, -1:].clone()

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class Divided(nn.Module):
    """A module that returns several tensors, all from one operation."""

    def __init__(self, divide: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.divide = divide

    def forward(self, x: Tensor) -> Any:
        return tuple(self.divide(x))


class First(nn.Module):
    """Uses the first part alone."""

    def __init__(self, divide: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.parts = Divided(divide)

    def forward(self, x: Tensor) -> Tensor:
        first: Tensor = self.parts(self.layer(x))[0]
        return first


@pytest.mark.parametrize("options", [{}, {"precision": "float16", "clip": 1.0}])
@pytest.mark.parametrize(
    "divide",
    [Fused.apply, Tensor.unbind, lambda x: x.chunk(2, -1), lambda x: x.split(2), torch.linalg.qr],
    ids=["fused", "unbind", "chunk", "split", "qr"],
)
def test_of_several_outputs_of_one_operation_some_may_be_unused(
    divide: Callable[[Tensor], Any], options: dict[str, Any]
) -> None:
    model, x = First(divide), torch.randn(6, 6)
    loss = model(x).sin().mean()
    (expected,) = torch.autograd.grad(loss, model.layer.weight)
    diagnosis = probe(model, x, loss=lambda out: out.sin().mean(), **options)
    states = [o.state for o in diagnosis.profile.outputs if o.name == "parts"]
    assert states == ["measured", *["unreached"] * (len(states) - 1)]
    assert len(states) > 1
    (found,) = [p.gradient for p in diagnosis.profile.parameters if p.name == "layer.weight"]
    assert found == pytest.approx(float(expected.norm()), rel=1e-5)
    assert not [f for f in diagnosis.findings if f.layer == "parts"]

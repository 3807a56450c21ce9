"""Recurrent layers that pass on a known share of the gradient, and what reads sequences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pytest_gradhealth import probe
from tests.helpers.architectures import Wired


def scaled(layer: nn.RNNBase | nn.RNNCellBase, *gains: float) -> Any:
    """Recurrent weights of a gain times the identity, one gain for each direction of each layer."""
    weights = [(n, p) for n, p in layer.named_parameters() if n.startswith("weight_hh")]
    with torch.no_grad():
        for index, (_, weight) in enumerate(weights):
            weight.copy_(gains[index % len(gains)] * torch.eye(*weight.shape, dtype=weight.dtype))
        for name, parameter in layer.named_parameters():
            if name.startswith("weight_ih"):
                parameter.copy_(torch.eye(*parameter.shape))
            if name.startswith("bias"):
                parameter.zero_()
    return layer


def relu_rnn(*gains: float, inputs: int = 4, **options: Any) -> Any:
    """A recurrence that is linear on positive inputs."""
    layer = nn.RNN(inputs, 4, nonlinearity="relu", dtype=torch.float64, **options)
    return scaled(layer, *gains)


def positive(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64) + 0.1


def times(model: nn.Module, *inputs: Any, dependency: int = 1, **options: Any) -> Any:
    options = {"loss": lambda out: out.square().mean(), "confirm_steps": 0, **options}
    given = inputs if len(inputs) > 1 else inputs[0]
    return probe(model, given, dependency=dependency, **options).profile.times


def classifier(layer: nn.RNNBase, **options: Any) -> Any:
    width = layer.hidden_size * (2 if layer.bidirectional else 1)
    return Wired(lambda m, x: m.head(m.rnn(x)[0][:, -1]), rnn=layer, head=nn.Linear(width, 5))


def sequences(steps: int = 28) -> tuple[Tensor, Tensor]:
    return torch.rand(16, steps, 8), torch.randint(0, 5, (16,))

"""Weights have the variance that their activation asks for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from pytest_gradhealth import CannotApplyError, Remedy
from tests.helpers.nets import mlp
from tests.helpers.remedies import (
    BY_NAME,
    CHANGING,
    FLAT,
    MODELS,
    Branches,
    layers,
    sigmoids,
    treated,
)

INITIALISING = [r for r in CHANGING if r.family == "initialisation"]


@pytest.mark.parametrize(
    ("name", "variance"),
    [
        ("Kaiming init", lambda fans: 1 / fans[0]),
        ("Xavier init", lambda fans: 2 / sum(fans)),
        ("orthogonal init", lambda fans: 1 / max(fans)),
    ],
)
@pytest.mark.parametrize("kind", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU])
def test_weights_have_the_variance_for_the_activation_that_follows(
    name: str, variance: Callable[[tuple[int, int]], float], kind: Callable[[], nn.Module]
) -> None:
    model = nn.Sequential(
        nn.Linear(200, 300), kind(), nn.Linear(300, 300), kind(), nn.Linear(300, 100)
    )
    nonlinearity = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid"}.get(kind, "leaky_relu")  # type: ignore[call-overload]
    gain = nn.init.calculate_gain(nonlinearity)
    patient, _ = treated(BY_NAME[name], model, torch.randn(4, 200))
    for layer in layers(patient.model):
        expected = gain**2 * variance((layer.in_features, layer.out_features))
        assert layer.weight.var().item() == pytest.approx(expected, rel=0.05)
        assert not layer.bias.any()
        if name == "orthogonal init" and layer.in_features == layer.out_features:
            product = layer.weight @ layer.weight.T
            assert torch.allclose(product, gain**2 * torch.eye(300), atol=1e-4)


def test_activations_that_are_functions_are_seen() -> None:
    torch.manual_seed(0)

    class Wide(Branches):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.gate = nn.Linear(20, 400), nn.Linear(400, 400, bias=False)
            self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(400, 400), nn.Tanh())])
            self.head = nn.Linear(400, 5)

    patient, code = treated(BY_NAME["Kaiming init"], Wide(), FLAT)
    model: Any = patient.model
    for layer, nonlinearity in (
        (model.stem, "sigmoid"),
        (model.blocks[0][0], "tanh"),
        (model.gate, "relu"),
    ):
        gain = nn.init.calculate_gain(nonlinearity)  # type: ignore[arg-type]
        std = gain / math.sqrt(layer.in_features)
        assert layer.weight.std().item() == pytest.approx(std, rel=0.05)
        assert f'nonlinearity="{nonlinearity}"' in code


@pytest.mark.parametrize("model", ["sigmoids", "branches", "convolutional", "sequences"])
def test_unit_variance_puts_out_unit_variance(model: str) -> None:
    build, inputs = MODELS[model]
    patient, _ = treated(BY_NAME["unit-variance init"], build(), inputs)
    spreads: list[float] = []
    for layer in layers(patient.model):
        layer.register_forward_hook(lambda *arguments: spreads.append(arguments[2].std().item()))
    patient.model(inputs)
    assert spreads == pytest.approx([1.0] * len(spreads), rel=1e-3)


def test_unit_variance_takes_a_batch() -> None:
    with pytest.raises(CannotApplyError, match="it takes a batch"):
        BY_NAME["unit-variance init"].apply(sigmoids())


@pytest.mark.parametrize("remedy", INITIALISING, ids=lambda remedy: remedy.name)
def test_frozen_and_parametrised_weights_are_left_alone(remedy: Remedy) -> None:
    model: Any = mlp(nn.Tanh, hidden=4)
    model[0].weight.requires_grad_(False)
    model[2] = weight_norm(nn.Linear(32, 32))
    patient, _ = treated(remedy, model, FLAT)
    changed: Any = patient.model
    assert torch.equal(changed[0].weight, model[0].weight)
    assert torch.equal(changed[2].weight, model[2].weight)
    assert not torch.equal(changed[4].weight, model[4].weight)

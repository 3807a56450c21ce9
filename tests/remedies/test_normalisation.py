"""Normalisation stands between layer and activation, where there is none yet."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import CannotApplyError
from tests.helpers.remedies import (
    BY_NAME,
    FLAT,
    IMAGE,
    SEQUENCE,
    attentive,
    convolutional,
    sequences,
    treated,
)


@pytest.mark.parametrize(
    ("name", "flat", "image"),
    [("batch norm", "BatchNorm1d", "BatchNorm2d"), ("layer norm", "LayerNorm", "GroupNorm")],
)
def test_norms_stand_between_layer_and_activation(name: str, flat: str, image: str) -> None:
    patient, _ = treated(BY_NAME[name], convolutional().double(), IMAGE.double())
    kinds = [type(m).__name__ for m in patient.model.modules() if not any(m.children())]
    block = ["Conv2d", image, "Sigmoid"]
    assert kinds == [*block * 3, "Flatten", "Linear", flat, "Sigmoid", "Linear"]
    assert {p.dtype for p in patient.model.parameters()} == {torch.float64}
    outputs: list[Tensor] = []
    norm = next(m for m in patient.model.modules() if type(m).__name__ == flat)
    norm.register_forward_hook(lambda *arguments: outputs.append(arguments[2]))
    patient.model(IMAGE.double())
    over = 0 if name == "batch norm" else 1
    assert outputs[0].mean(over).abs().max() < 1e-9
    assert outputs[0].std(over, correction=0).sub(1).abs().max() < 0.01


def test_what_is_normalised_is_not_normalised_again() -> None:
    model = nn.Sequential(
        nn.Linear(20, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 5)
    )
    patient, _ = treated(BY_NAME["batch norm"], model, FLAT)
    kinds = [type(m).__name__ for m in patient.model.modules() if "Norm" in type(m).__name__]
    assert kinds == ["LayerNorm", "BatchNorm1d"]
    with pytest.raises(CannotApplyError, match="every layer but the last is normalised already"):
        BY_NAME["layer norm"].apply(patient.model, FLAT)


def test_batch_norm_refuses_sequences_and_layer_norm_takes_them() -> None:
    with pytest.raises(CannotApplyError) as caught:
        BY_NAME["batch norm"].apply(sequences(), SEQUENCE)
    assert str(caught.value) == (
        "0 puts out 3 dimensions, of which batch norm would take the second for the features"
    )
    assert BY_NAME["layer norm"].apply(sequences(), SEQUENCE)(SEQUENCE).shape == (8, 5, 2)


def test_what_an_attention_multiplies_with_and_never_calls_is_left_alone() -> None:
    patient, code = treated(BY_NAME["layer norm"], attentive(), SEQUENCE)
    assert code.splitlines()[2:] == [
        "for name, m in [*model.named_modules()]:",
        '    if type(m) is nn.Linear and name != "4":',
        "        model.set_submodule(name, nn.Sequential(m, nn.LayerNorm(m.out_features)))",
    ]
    assert patient.model(SEQUENCE).shape == (8, 5, 2)


def test_layers_whose_weights_are_read_in_eval_mode_are_not_wrapped() -> None:
    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
    with pytest.raises(CannotApplyError) as caught:
        BY_NAME["layer norm"].apply(nn.Sequential(layer, nn.Linear(6, 2)), SEQUENCE)
    assert str(caught.value) == (
        "in eval mode its forward reads weights of its layers: 'Sequential' object has no"
        " attribute 'weight'"
    )

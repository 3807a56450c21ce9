"""Inputs far from mean 0 and deviation 1 are standardised, feature by feature."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pytest_gradhealth import CannotApplyError, probe, suggest
from pytest_gradhealth.remedies import trial
from tests.helpers.nets import mlp
from tests.helpers.remedies import (
    BY_NAME,
    FLAT,
    IMAGE,
    SEQUENCE,
    convolutional,
    sequences,
    sigmoids,
    treated,
)

STANDARDISED = BY_NAME["standardised inputs"]
FAR_APART = torch.logspace(-3, 4, 20)

EXAMPLES: dict[str, tuple[nn.Module, Tensor, tuple[int, ...]]] = {
    "features": (sigmoids(), FLAT * FAR_APART + 3 * FAR_APART, (0,)),
    "images": (convolutional(), 30000 + 9000 * IMAGE, (0, 2, 3)),
    "sequences": (sequences(), SEQUENCE * FAR_APART[:6], (0, 1)),
    "doubles": (sigmoids().double(), 1e5 + FLAT.double(), (0,)),
}


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_each_feature_gets_mean_0_and_deviation_1(name: str, by_hand: bool, training: bool) -> None:
    model, x, others = EXAMPLES[name]
    patient, code = treated(STANDARDISED, model.train(training), x)
    changed = patient.model
    assert {m.training for m in changed.modules()} == {training}
    if by_hand:
        space: dict[str, Any] = {"model": model}
        exec(code, space)
        changed = space["model"]
        changed(x)
        changed.train(training)
    got: list[Tensor] = []
    inner: Any = changed.get_submodule("model")
    inner.register_forward_pre_hook(lambda _, given: got.append(given[0]))
    changed(x)
    assert got[0].shape == x.shape
    assert got[0].mean(others).abs().max() < 2e-2
    assert got[0].std(others).sub(1).abs().max() < 0.02
    assert not [*changed.get_submodule("norm").parameters()]


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (FLAT, "the inputs are within a factor of 10 of mean 0 and deviation 1"),
        (FLAT / 5 + 4, "the inputs are within a factor of 10 of mean 0 and deviation 1"),
        (FLAT[:1] * 1e4, "the first input is no batch of floating features"),
        (None, "it takes a batch, to see the features"),
        (FLAT * torch.inf, "the inputs are not finite"),
    ],
)
def test_what_cannot_be_standardised_has_its_reason(x: Any, reason: str) -> None:
    with pytest.raises(CannotApplyError) as caught:
        STANDARDISED.apply(sigmoids(), x)
    assert str(caught.value) == reason


def test_a_feature_that_is_the_same_for_all_is_none_after_training_either() -> None:
    x = 10_000 + FLAT * (torch.arange(20) > 3)
    changed = STANDARDISED.apply(mlp(), x)
    for _ in range(5):
        changed(x)
    got: list[Tensor] = []
    changed.get_submodule("model").register_forward_pre_hook(lambda _, given: got.append(given[0]))
    changed.eval()(x)
    assert got[0][:, :4].abs().max() < 1e-3
    assert got[0][:, 4:].std(0).sub(1).abs().max() < 0.02


def test_further_inputs_are_passed_on_and_silent_features_are_left() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(20, 4)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            out: Tensor = self.layer(x) * mask
            return out

    x = FLAT.clone()
    x[:, 0] = 0.0
    with pytest.raises(CannotApplyError):
        STANDARDISED.apply(Two(), (x, torch.ones(64, 1)))
    changed = STANDARDISED.apply(Two(), (1e4 * x, torch.zeros(64, 1)))
    assert not changed(1e4 * x, torch.zeros(64, 1)).any()
    assert changed(1e4 * x, torch.ones(64, 1)).isfinite().all()


def test_pictures_of_16_bits_in_a_tanh_network_are_the_cause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trial, "built_in_remedies", lambda: (STANDARDISED,))
    x = 65535 * torch.rand(64, 20)
    y = (x[:, 0] > x[:, 1]).long()
    torch.manual_seed(0)
    diagnosis = probe(mlp(nn.Tanh, classes=2), x, y, loss=cross_entropy)
    assert diagnosis.verdict == "failure"
    (cure,) = suggest(diagnosis, budget=60)
    assert (cure.outcome, cure.reason) == ("cured", "")
    assert cure.code == (
        "# once, where `model` has been built, before its optimizer is\n"
        "from torch import nn\n"
        "class Standardised(nn.Module):\n"
        "    def __init__(self, model):\n"
        "        super().__init__()\n"
        "        # momentum=None: means and deviations of all batches of the training\n"
        "        norm = nn.BatchNorm1d(20, eps=1e-12, momentum=None, affine=False)\n"
        "        self.norm = norm.double()  # a mean that is large is not rounded\n"
        "        self.model = model\n"
        "    def forward(self, x, *rest):\n"
        "        return self.model(self.norm(x.double()).to(x.dtype), *rest)\n"
        "model = Standardised(model)"
    )

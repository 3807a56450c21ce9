"""Inputs far from mean 0 and deviation 1 are standardised, feature by feature."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pytest_gradhealth import CannotApplyError, Patient, probe, suggest
from pytest_gradhealth.remedies import trial
from pytest_gradhealth.subject.calling import Called
from pytest_gradhealth.tensors.trees import tensors
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


class Summed(nn.Module):
    """A forward that takes however many inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.out = nn.LayerNorm(6), nn.Linear(6, 2)

    def forward(self, *inputs: Tensor) -> Tensor:
        out: Tensor = self.out(self.norm(sum(inputs)))
        return out


EXAMPLES: dict[str, tuple[nn.Module, Tensor, tuple[int, ...]]] = {
    "features": (sigmoids(), FLAT * FAR_APART + 3 * FAR_APART, (0,)),
    "images": (convolutional(), 30000 + 9000 * IMAGE, (0, 2, 3)),
    "sequences": (sequences(), SEQUENCE * FAR_APART[:6], (0, 1)),
    "sequences of no layer": (Summed(), SEQUENCE * FAR_APART[:6], (0, 1)),
    "series": (
        nn.Sequential(nn.Conv1d(5, 4, 3), nn.Flatten(), nn.Linear(16, 3)),
        SEQUENCE * FAR_APART[:5, None],
        (0, 2),
    ),
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
    assert not [*changed.get_submodule("norms").parameters()]


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (FLAT, "the inputs are within a factor of 10 of mean 0 and deviation 1"),
        (FLAT / 5 + 4, "the inputs are within a factor of 10 of mean 0 and deviation 1"),
        (FLAT[:1] * 1e4, "no input is a batch of floating features"),
        (None, "it takes a batch, to see the features"),
        (FLAT * torch.inf, "the inputs are not finite"),
        (torch.zeros(64, 20), "the inputs are within a factor of 10 of mean 0 and deviation 1"),
    ],
)
def test_what_cannot_be_standardised_has_its_reason(x: Any, reason: str) -> None:
    with pytest.raises(CannotApplyError) as caught:
        STANDARDISED.apply(sigmoids(), x)
    assert str(caught.value) == reason


def test_a_feature_that_is_the_same_for_all_is_none_after_training_either() -> None:
    x = 10_000.3 + FLAT * (torch.arange(20) > 3)
    assert (x[:, 0].mean() - x[0, 0]).abs() > 0, "rounding alone makes them differ"
    changed = STANDARDISED.apply(mlp(), x)
    got = entering(changed)
    for _ in range(5):
        changed(x)
    changed.eval()(x)
    for seen in got:
        assert seen[:, :4].abs().max() < 0.1
    assert got[-1][:, 4:].std(0).sub(1).abs().max() < 0.02


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


def entering(changed: nn.Module) -> list[Any]:
    """What comes to be standardised for the first argument of the model inside, call by call."""
    got: list[Any] = []
    inner = changed.get_submodule("model")
    inner.register_forward_pre_hook(lambda _, args: got.append(args[0]))
    return got


FAR = 2000 + 300 * FLAT
FAR[:, -1] = 0.0

CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "float": nn.Module.float,
    "half": nn.Module.half,
    "bfloat16": nn.Module.bfloat16,
    "double": nn.Module.double,
    "float32": lambda model: model.to(torch.float32),
    "copy": copy.deepcopy,
    "compile": lambda model: torch.compile(model, backend="eager", fullgraph=True),
}


@pytest.mark.parametrize(
    ("name", "trained"),
    [*((name, False) for name in CONVERSIONS), *((name, True) for name in [*CONVERSIONS][:-1])],
)
def test_the_printed_code_goes_with_what_is_done_to_a_model(name: str, trained: bool) -> None:
    space: dict[str, Any] = {"model": mlp()}
    exec(treated(STANDARDISED, mlp(), FAR)[1], space)
    model = space["model"]
    if trained:
        model(FAR)
    got = entering(model)
    model = CONVERSIONS[name](model)
    x = FAR.to(next(model.parameters()).dtype)
    for mode in (True, False):
        assert model.train(mode)(x).isfinite().all()
    got = got or entering(model)
    model(x)
    for seen in got:
        assert seen.dtype == x.dtype
        assert seen.float().mean(0).abs().max() < 0.05
        assert seen[:, :-1].float().std(0).sub(1).abs().max() < 0.05
        assert not seen[:, -1].any()


def test_the_printed_code_loads_what_it_has_saved_and_takes_a_batch_of_one() -> None:
    code = treated(STANDARDISED, mlp(), FAR)[1]
    models = []
    for _ in range(2):
        space: dict[str, Any] = {"model": mlp()}
        exec(code, space)
        models.append(space["model"])
    assert models[0].eval()(FAR).isfinite().all(), "untrained it leaves the inputs as they are"
    models[0].train()(FAR)
    assert models[0](FAR[:1]).isfinite().all()
    models[1].load_state_dict(models[0].state_dict())
    one, other = (model.eval()(input=FAR) for model in models)
    assert torch.equal(one, other)


class Tabular(nn.Module):
    """Categories beside numbers, which come by position, by name or in one mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(10, 4), nn.Linear(44, 3)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, kind: Tensor, x: Tensor, z: Tensor, scale: float = 1.0) -> Tensor:
        self.seen.append((x, z))
        out: Tensor = self.out(torch.cat([self.embed(kind), x, z], 1)) * scale
        return out


class Batched(Tabular):
    def forward(self, batch: Any, scale: float = 1.0) -> Tensor:  # type: ignore[override]
        return super().forward(batch["kind"], batch["x"], batch["z"], scale)


KIND = torch.arange(64) % 10
APART = {"kind": KIND, "x": FAR, "z": FLAT}


@pytest.mark.parametrize(
    ("model", "inputs", "named"),
    [
        (Tabular(), (KIND, FAR, FLAT), "x"),
        (Tabular(), (KIND, FLAT, FAR), "z"),
        (Tabular(), (KIND, FAR, 1e-3 * FLAT), "xz"),
        (Tabular(), APART, "x"),
        (Tabular(), {**APART, "z": 5 * FAR}, "xz"),
        (Batched(), (APART,), "x"),
        (Batched(), ({**APART, "z": 5 * FAR}, 2.0), "xz"),
    ],
)
def test_whichever_inputs_are_far_are_standardised(model: Any, inputs: Any, named: str) -> None:
    patient, code = treated(STANDARDISED, model, inputs)
    space: dict[str, Any] = {"model": model}
    exec(code, space)
    for changed in (patient.model, space["model"]):
        inner: Any = changed.get_submodule("model")
        inner.seen.clear()
        if isinstance(inputs, dict):
            changed(**inputs, scale=2.0)
        else:
            changed(*inputs)
        ((x, z),) = inner.seen
        for name, got in (("x", x), ("z", z)):
            assert any(got is t for t in tensors(inputs)) == (name not in named)
            if name in named:
                assert got.mean(0).abs().max() < 0.02
                assert got[:, :-1].std(0).sub(1).abs().max() < 0.02


def test_what_a_key_says_of_itself_is_no_code() -> None:
    class Hostile(str):
        __slots__ = ()

        def __repr__(self) -> str:
            return "exit()"

    with pytest.raises(CannotApplyError) as caught:
        STANDARDISED.change(Patient(Batched(), ({"kind": KIND, "z": FLAT, Hostile("x"): FAR}, 2.0)))
    assert str(caught.value) == "the inputs are within a factor of 10 of mean 0 and deviation 1"


def test_a_function_that_calls_the_model_has_nothing_put_in_front_of_it() -> None:
    with pytest.raises(CannotApplyError) as caught:
        STANDARDISED.change(Patient(mlp(), Called(FAR, lambda model, x: model(x))))
    assert str(caught.value) == "it goes in front of a forward, and call takes the place of that"


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
    assert (
        cure.code
        == """\
# once, where `model` has been built, before its optimizer is
import torch
from torch import nn
class Standardise(nn.Module):
    def __init__(self, features, dim=-1):
        super().__init__()
        self.dim = dim
        self.register_buffer("batches", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
    def forward(self, x):
        rows = x.movedim(self.dim, -1).float()
        if self.training:  # mean and deviation of all batches so far
            with torch.no_grad():
                flat = rows.flatten(0, -2)
                self.batches += 1
                self.mean += (flat - self.mean).mean(0) / self.batches
                now = (flat - self.mean).square().mean(0).sqrt()
                self.deviation += (now - self.deviation) / self.batches
        mean, deviation = self.mean.float(), self.deviation.float()
        size = torch.hypot(deviation, 1e-6 * mean.abs() + 1e-12)
        return ((rows - mean) / size).movedim(-1, self.dim).to(x.dtype)
class Standardised(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
        self.norms = nn.ModuleList([Standardise(20)])
    def forward(self, input, *args, **kwargs):
        return self.model(self.norms[0](input), *args, **kwargs)
model = Standardised(model)"""
    )

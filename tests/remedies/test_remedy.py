"""Every remedy: the model stays as it is, and its code does the same as it does."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import nn

from pytest_gradhealth import CannotApplyError, Patient, Remedy
from pytest_gradhealth.subject.step import Step
from tests.helpers.remedies import (
    BY_NAME,
    CHANGING,
    FLAT,
    MODELS,
    SEQUENCE,
    architecture,
    attentive,
    layers,
    sigmoids,
    treated,
)

each_model = pytest.mark.parametrize("model", MODELS)
each_change = pytest.mark.parametrize("remedy", CHANGING, ids=lambda remedy: remedy.name)
#: Each change of each model; batch norm takes no sequences.
each_treatment = pytest.mark.parametrize(
    ("remedy", "model"),
    [
        pytest.param(remedy, model, id=f"{remedy.name}-{model}")
        for remedy, model in itertools.product(CHANGING, MODELS)
        if remedy.name != "batch norm" or MODELS[model][1].dim() != 3
    ],
)
each_remedy = pytest.mark.parametrize("remedy", BY_NAME.values(), ids=lambda remedy: remedy.name)


@each_model
@each_remedy
def test_the_model_stays_as_it_is(remedy: Remedy, model: str) -> None:
    build, inputs = MODELS[model]
    given = build().eval()
    given.register_forward_hook(lambda *_: None)
    state = copy.deepcopy(given.state_dict())
    before = (str(given), list(given._forward_hooks), [id(p) for p in given.parameters()])
    try:
        changed = remedy.apply(given, inputs)
    except CannotApplyError:
        changed = nn.Identity()
    assert not {id(p) for p in changed.parameters()} & set(before[2])
    assert (str(given), list(given._forward_hooks), [id(p) for p in given.parameters()]) == before
    for name, tensor in given.state_dict().items():
        assert torch.equal(tensor, state[name])


@each_treatment
def test_the_code_does_to_a_model_what_the_remedy_does(remedy: Remedy, model: str) -> None:
    build, inputs = MODELS[model]
    given = build()
    patient, code = treated(remedy, given, inputs)
    torch.manual_seed(7)
    space: dict[str, Any] = {"model": given}
    exec(code, space)
    by_hand = space["model"]
    assert sorted(architecture(by_hand)) == sorted(architecture(patient.model))
    assert by_hand(inputs).shape == patient.model(inputs).shape
    for mine, theirs in zip(layers(by_hand), layers(patient.model), strict=True):
        if remedy.family == "residual connections":
            break  # projections draw numbers of their own
        assert mine.weight.std().item() == pytest.approx(theirs.weight.std().item(), rel=0.2)
        if remedy.family == "normalisation":
            assert torch.equal(mine.weight, theirs.weight)


@each_change
def test_what_the_remedy_could_not_do_has_its_reason(remedy: Remedy) -> None:
    with pytest.raises(CannotApplyError) as caught:
        remedy.apply(nn.Sequential(nn.Embedding(5, 3), nn.Tanh()), torch.arange(4))
    assert str(caught.value)


def test_new_modules_are_in_the_mode_of_the_old() -> None:
    for remedy in CHANGING:
        changed = remedy.apply(sigmoids().eval(), FLAT)
        assert not any(m.training for m in changed.modules()), remedy.name


def test_what_is_done_already_is_not_done_again() -> None:
    step = Step(clip=1.0, regularizer=lambda model: next(model.parameters()).sum())
    for name, reason in (
        ("clip by norm", "gradients are clipped already"),
        ("L2 penalty", "the loss has a penalty already"),
    ):
        with pytest.raises(CannotApplyError, match=reason):
            BY_NAME[name].change(Patient(sigmoids(), FLAT, None, step))
    decaying = Patient(sigmoids(), FLAT, lambda ps: torch.optim.SGD(ps, weight_decay=1e-4))
    with pytest.raises(CannotApplyError, match="SGD decays weights already"):
        BY_NAME["weight decay"].change(decaying)
    lbfgs = Patient(sigmoids(), FLAT, torch.optim.LBFGS)
    with pytest.raises(CannotApplyError, match="LBFGS knows no weight decay"):
        BY_NAME["weight decay"].change(lbfgs)


def test_without_a_batch_the_registered_order_has_to_do() -> None:
    for remedy in CHANGING:
        if remedy.name in ("residual", "unit-variance init"):
            continue
        assert remedy.apply(sigmoids())(FLAT).shape == (64, 5), remedy.name
        if remedy.name != "batch norm":
            assert remedy.apply(attentive())(SEQUENCE).shape == (8, 5, 2), remedy.name

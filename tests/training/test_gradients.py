"""Clipping and penalties, against calculus, and what is told of those that cannot be used."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from pytest_gradhealth import (
    ProbeError,
    assert_healthy,
    assert_no_dominating_regularizer,
    assert_no_exploding_update,
    probe,
)
from pytest_gradhealth.formatting import shown
from tests.helpers.nets import ONES, batch, constant, mlp, total
from tests.helpers.penalties import lasso, measured, of_rule, penalty_of, ridge
from tests.helpers.state import content, unchanged
from tests.helpers.steps import Factory, sgd

cross_entropy = nn.functional.cross_entropy


# Closed forms: norms are 4 times what an element has.


@pytest.mark.parametrize("strength", [1e-9, 0.5, 3.0, 1e9])
@pytest.mark.parametrize("size", [-2.0, 1e-3, 7.0])
def test_penalties_have_the_gradients_of_calculus(strength: float, size: float) -> None:
    model = constant(size)
    assert measured(model, None, ridge(strength)) == pytest.approx(8 * strength * abs(size))
    assert measured(model, None, lasso(strength)) == pytest.approx(4 * strength)
    decayed = measured(model, sgd(0.1, weight_decay=strength))
    assert decayed == pytest.approx(4 * strength * abs(size))
    assert measured(model, sgd(0.1, weight_decay=2 * strength)) == pytest.approx(
        measured(model, sgd(0.1), ridge(strength)), rel=1e-12
    )


def test_penalty_and_weight_decay_add_up_with_their_signs() -> None:
    def both(sign: float) -> float:
        return measured(
            constant(2.0),
            sgd(0.1, weight_decay=3.0),
            lambda model: sign * model.get_parameter("0.weight").sum(),
        )

    assert both(1.0) == pytest.approx(4 * (3 * 2 + 1))
    assert both(-1.0) == pytest.approx(4 * (3 * 2 - 1))
    assert both(-6.0) == pytest.approx(0, abs=1e-12)


def test_the_gradient_of_the_loss_is_measured_without_the_penalty() -> None:
    diagnosis = probe(constant(2.0), ONES, loss=total, regularizer=ridge(1e3))
    (record,) = diagnosis.profile.parameters
    assert record.gradient == pytest.approx(4, rel=1e-12)
    assert diagnosis.profile.loss == 8 * 4


def test_a_penalty_on_one_layer_is_zero_on_the_others() -> None:
    model = nn.Sequential(*constant(1.0), *constant(2.0))

    def second(model: Any) -> Any:
        return model[1].weight.square().sum()

    diagnosis = probe(model, ONES, loss=total, regularizer=second)
    assert penalty_of(diagnosis, "0.weight") == 0
    assert penalty_of(diagnosis, "1.weight") == pytest.approx(4 * 2 * 2)


def test_without_penalty_and_decay_nothing_is_measured() -> None:
    for optimizer in (None, SGD, sgd(0.1), sgd(0.1, weight_decay=0.0)):
        diagnosis = probe(constant(), ONES, loss=total, optimizer=optimizer, clip=1.0)
        assert penalty_of(diagnosis) is None


def test_frozen_parameters_have_no_penalty() -> None:
    model = nn.Sequential(*constant(), *constant())
    model[0].requires_grad_(False)
    diagnosis = probe(model, ONES, loss=total, regularizer=ridge(1.0))
    assert penalty_of(diagnosis, "0.weight") is None
    assert penalty_of(diagnosis, "1.weight") == pytest.approx(8)


def test_weight_decay_is_that_of_the_group() -> None:
    def groups(model: nn.Module) -> Any:
        first, second, third = model.parameters()
        return [
            {"params": [first], "weight_decay": 0.5},
            {"params": [second], "weight_decay": 0.0},
            {"params": [third]},
        ]

    model = nn.Sequential(*constant(), *constant(), *constant())
    as_instance = SGD(groups(model), lr=0.1, weight_decay=2.0)

    def as_factory(parameters: Iterable[nn.Parameter]) -> Optimizer:
        first, second, third = parameters
        pair: dict[str, Any] = {"params": [first, third], "weight_decay": 0.5}
        return SGD([pair, {"params": [second]}], lr=0.1)

    for optimizer, expected in ((as_instance, (2.0, 0.0, 8.0)), (as_factory, (2.0, 0.0, 2.0))):
        diagnosis = probe(model, ONES, loss=total, optimizer=optimizer, clip=1.0)
        found = [p.penalty for p in diagnosis.profile.parameters]
        assert found == pytest.approx(expected)


DECOUPLES = "decoupled_weight_decay" in inspect.signature(Adam).parameters
COUPLED: dict[str, Factory] = {
    "SGD": sgd(0.1, weight_decay=50.0),
    "Adam": lambda ps: Adam(ps, weight_decay=50.0),
    "Adagrad": lambda ps: torch.optim.Adagrad(ps, weight_decay=50.0),
    "Adadelta": lambda ps: torch.optim.Adadelta(ps, weight_decay=50.0),
    "Adamax": lambda ps: torch.optim.Adamax(ps, weight_decay=50.0),
    "ASGD": lambda ps: torch.optim.ASGD(ps, weight_decay=50.0),
    "NAdam": lambda ps: torch.optim.NAdam(ps, weight_decay=50.0),
    "RAdam": lambda ps: torch.optim.RAdam(ps, weight_decay=50.0),
    "RMSprop": lambda ps: torch.optim.RMSprop(ps, weight_decay=50.0),
}


@pytest.mark.parametrize("optimizer", COUPLED.values(), ids=list(COUPLED))
def test_coupled_weight_decay_is_a_penalty(optimizer: Factory) -> None:
    assert measured(constant(2.0), optimizer) == pytest.approx(4 * 50 * 2)
    model = constant(2.0)
    assert measured(model, optimizer(model.parameters())) == pytest.approx(4 * 50 * 2)


DECOUPLED: dict[str, Callable[..., Optimizer]] = {
    "AdamW": lambda ps: AdamW(ps, weight_decay=50.0),
    **{
        kind.__name__: lambda ps, kind=kind: kind(
            ps, weight_decay=50.0, decoupled_weight_decay=True
        )
        for kind in (Adam, torch.optim.NAdam, torch.optim.RAdam)
        if "decoupled_weight_decay" in inspect.signature(kind).parameters
    },
}


@pytest.mark.parametrize("optimizer", DECOUPLED.values(), ids=list(DECOUPLED))
def test_decoupled_weight_decay_is_none(optimizer: Callable[..., Optimizer]) -> None:
    model = constant(2.0)
    for given_ in (optimizer, optimizer(model.parameters())):
        diagnosis = assert_no_dominating_regularizer(model, ONES, loss=total, optimizer=given_)
        assert penalty_of(diagnosis) is None


@pytest.mark.skipif(not DECOUPLES, reason="Adam has no such option in this version of torch")
def test_decoupling_may_differ_from_group_to_group() -> None:
    def build(parameters: Iterable[nn.Parameter]) -> Optimizer:
        return Adam([{"params": parameters, "decoupled_weight_decay": True}], weight_decay=50.0)

    diagnosis = probe(constant(2.0), ONES, loss=total, optimizer=build, clip=1.0)
    assert penalty_of(diagnosis) is None


def test_a_class_with_weight_decay_of_its_own_is_a_penalty() -> None:
    class Decaying(SGD):
        def __init__(self, params: Any, lr: float = 0.1, weight_decay: float = 50.0) -> None:
            super().__init__(params, lr=lr, weight_decay=weight_decay)

    diagnosis = probe(constant(2.0), ONES, loss=total, optimizer=Decaying, clip=1.0)
    assert penalty_of(diagnosis) == pytest.approx(400)


# What is left behind, and what is reused.


@pytest.mark.parametrize("strength", [1e-4, 10.0], ids=["healthy", "sick"])
def test_everything_of_the_caller_is_as_it_was(strength: float) -> None:
    x, y = batch()
    model = nn.Sequential(*mlp(), nn.BatchNorm1d(5), nn.Dropout(0.3))
    optimizer = Adam(model.parameters(), weight_decay=1e-4)
    cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    before = content(optimizer.state), content(optimizer.param_groups)
    with unchanged(model, x, y):
        diagnosis = probe(
            model, x, y, loss=cross_entropy, optimizer=optimizer, regularizer=ridge(strength)
        )
    assert (content(optimizer.state), content(optimizer.param_groups)) == before
    assert bool(of_rule(diagnosis)) == (strength > 1)


# Bad arguments.


EXAMPLE = (
    "; pass a function of the model, for example lambda model: 1e-4 * sum(p.abs().sum() for p in"
    " model.parameters())"
)
NO_SCALAR = (
    ", not a scalar that depends on the model it is given; for example lambda model: 1e-4 *"
    " sum(p.abs().sum() for p in model.parameters())"
)
FOREIGN = (
    "regularizer does not depend on the parameters of the model it is given; write it as a function"
    " of its argument, lambda model: ..., since it is called with copies too"
)


def refused(regularizer: Any, model: nn.Module | None = None) -> str:
    x, y = batch()
    with pytest.raises(ProbeError) as caught:
        probe(model or mlp(), x, y, loss=cross_entropy, regularizer=regularizer)
    return str(caught.value)


def test_a_regularizer_that_is_no_function_is_refused() -> None:
    assert refused("l2") == f"regularizer is 'l2'{EXAMPLE}"
    assert refused(1e-4) == f"regularizer is 0.0001{EXAMPLE}"


def test_a_regularizer_that_returns_no_penalty_is_refused() -> None:
    assert refused(lambda _: None) == f"regularizer returned a NoneType{NO_SCALAR}"
    assert refused(lambda _: 0.5) == f"regularizer returned a float{NO_SCALAR}"
    assert refused(lambda m: 2 * m.get_parameter("0.bias")) == (
        f"regularizer returned a Tensor of shape (32,){NO_SCALAR}"
    )
    assert refused(lambda m: m.get_parameter("0.bias").detach().sum()) == (
        f"regularizer returned a Tensor of shape (){NO_SCALAR}"
    )


def test_a_penalty_of_shape_one_is_fine() -> None:
    found = measured(constant(), None, lambda model: model.get_parameter("0.weight").sum()[None])
    assert found == pytest.approx(4)


def test_a_regularizer_that_raises_is_told_what_it_is_called_with() -> None:
    def broken(model: nn.Module) -> None:
        raise ValueError("of no use")

    assert refused(broken) == (
        "regularizer raised ValueError: of no use; it is called with the model"
    )


def test_a_regularizer_of_another_model_is_refused() -> None:
    other = nn.Linear(2, 2)
    assert refused(lambda _: other.weight.square().sum()) == FOREIGN


def test_a_regularizer_that_captures_the_model_is_refused() -> None:
    model = mlp()
    assert (
        refused(lambda _: 1e-4 * model.get_parameter("0.weight").square().sum(), model) == FOREIGN
    )


def test_a_strong_regularizer_that_captures_the_model_is_refused_by_the_second_look() -> None:
    model = mlp()
    weight = model.get_parameter("0.weight")
    assert refused(lambda _: 1e3 * weight.square().sum(), model) == FOREIGN


def test_a_penalty_on_activations_is_taken_or_refused_in_words() -> None:
    def activity(model: Any) -> Any:
        return 1e-3 * model.hidden.abs().sum()

    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.Linear(20, 40), nn.Linear(40, 5)

        def forward(self, x: Tensor) -> Tensor:
            self.hidden = self.encoder(x).relu()
            out: Tensor = self.decoder(self.hidden)
            return out

    x, y = batch()
    with suppress(ProbeError):
        probe(Sparse(), x, y, loss=cross_entropy, regularizer=activity)


CLIP_IS = (
    "; pass the largest gradient norm, for example 1.0, or a function that clips the gradients of"
    " a list of parameters"
)
CLIP_RAISED = (
    "; it is called with a list of parameters, for example lambda ps:"
    " torch.nn.utils.clip_grad_value_(ps, 0.5)"
)


@pytest.mark.parametrize(
    "clip", [0, 0.0, -1.0, math.nan, True, False, "1.0", [1.0], torch.ones(2)], ids=repr
)
@pytest.mark.parametrize("check_it", [probe, assert_healthy, assert_no_exploding_update])
def test_a_clip_that_cannot_be_one_is_refused(check_it: Callable[..., object], clip: Any) -> None:
    x, y = batch()
    with pytest.raises(ProbeError) as caught:
        check_it(mlp(), x, y, loss=cross_entropy, clip=clip)
    assert str(caught.value) == f"clip is {shown(clip)}{CLIP_IS}"


def test_a_clip_that_raises_is_told_what_it_is_called_with() -> None:
    def clip(parameters: object) -> None:
        raise TypeError("no list")

    x, y = batch()
    with pytest.raises(ProbeError) as caught:
        probe(mlp(), x, y, loss=cross_entropy, clip=clip)
    assert str(caught.value) == f"clip raised TypeError: no list{CLIP_RAISED}"
    assert isinstance(caught.value.__cause__, TypeError)

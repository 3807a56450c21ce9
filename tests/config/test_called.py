"""A check that is called in another way than it can be works, or says what to pass instead."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import pytest_gradhealth
from pytest_gradhealth import GradHealth, ProbeError, probe

X, Y = torch.randn(8, 4), torch.arange(8) % 3
NAMES = ["probe", *(n for n in pytest_gradhealth.__all__ if n.startswith("assert_"))]
NAMES.remove("assert_same_gradients")  # takes two models
NEEDED: dict[str, dict[str, Any]] = {"assert_no_vanishing_in_time": {"dependency": 2}}


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def function(name: str) -> Callable[..., Any]:
    return getattr(pytest_gradhealth, name)  # type: ignore[no-any-return]


def method(name: str) -> Callable[..., Any]:
    return getattr(GradHealth(), name)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("found", [function, method])
def test_what_cannot_be_called_says_what_to_pass(name: str, found: Any) -> None:
    check, named = found(name), NEEDED.get(name, {})
    tuples = f"; several inputs go as one tuple: {name}(model, (a, b), y, loss=...)"
    batch = f"; pass {name}(model, x, y, loss=...)"
    by_name = f"takes the loss by its name: {name}(model, x, y, loss="
    ce, criterion = cross_entropy, nn.CrossEntropyLoss()
    for args, options, words in (
        ((net(), X, Y, ce), {}, f"{by_name}cross_entropy)"),
        ((net(), X, Y, criterion), {}, f"{by_name}...)"),
        ((net(), X, Y, ce, torch.optim.SGD), {}, f"{by_name}cross_entropy)"),
        ((net(), X, X, Y, lambda out, y: ce(out, y)), {}, f"{by_name}...)"),
        ((net(), X, X, Y), {"loss": ce}, f"got too many positional arguments{tuples}"),
        ((net(), X, X, Y), {}, f"got too many positional arguments{tuples}"),
        ((net(), X), {"inputs": X}, "got multiple values for argument 'inputs'"),
        ((), {"loss": ce}, f"is missing a required argument: 'model'{batch}"),
    ):
        with pytest.raises(ProbeError) as caught:
            check(*args, **options, **named)
        assert str(caught.value).removeprefix(f"{name} ") == words
        assert caught.value.__cause__ is None


def test_a_name_by_position_is_told_by_its_name() -> None:
    with pytest.raises(ProbeError) as caught:
        pytest_gradhealth.assert_matches_baseline(net(), X, Y, "kept")  # type: ignore[call-arg]
    assert str(caught.value) == (
        "assert_matches_baseline takes the name by its name: assert_matches_baseline(model, x, y,"
        " name='kept')"
    )


def test_the_loss_of_two_models_goes_by_name() -> None:
    name = "assert_same_gradients"
    for check in (function(name), method(name)):
        with pytest.raises(ProbeError) as caught:
            check(net(), net(), X, Y, cross_entropy)
        assert str(caught.value) == (
            f"{name} takes the loss by its name: {name}(a, b, x, y, loss=cross_entropy)"
        )


def test_what_is_needed_is_named() -> None:
    for check in (probe, GradHealth().probe):
        with pytest.raises(ProbeError) as caught:
            check(net(), loss=cross_entropy)  # type: ignore[call-arg]
        assert str(caught.value) == (
            "probe is missing a required argument: 'inputs'; pass probe(model, x, y, loss=...)"
        )
    with pytest.raises(ProbeError) as caught:
        pytest_gradhealth.assert_no_vanishing_in_time(net(), X, Y)  # type: ignore[call-arg]
    name = "assert_no_vanishing_in_time"
    assert str(caught.value) == (
        f"{name} is missing a required argument: 'dependency'; pass {name}(model, ...,"
        " dependency=...)"
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_and_all_behind_it_go_by_name(name: str) -> None:
    for check in (function(name), getattr(GradHealth, name)):
        taken = [p for p in inspect.signature(check).parameters.values() if p.name != "self"]
        assert [p.name for p in taken if p.kind is p.POSITIONAL_OR_KEYWORD] == [
            *("model", "inputs", "targets")
        ]


@pytest.mark.parametrize(
    ("loss", "name"),
    [(cross_entropy, "cross_entropy"), (nn.CrossEntropyLoss(), "CrossEntropyLoss()")],
)
def test_a_loss_in_place_of_targets_is_told(loss: Any, name: str) -> None:
    with pytest.raises(ProbeError) as caught:
        probe(net(), X, loss)
    assert str(caught.value) == (
        f"targets is the function {name}; pass it as the loss: loss={name}"
    )

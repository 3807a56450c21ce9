"""Parameters that the forward does not use are a warning, unless all have to be reached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pytest_gradhealth import (
    UnreachedParameterError,
    UnusedParameterError,
    assert_all_reached,
    assert_healthy,
    probe,
)
from tests.helpers.architectures import Wired
from tests.helpers.findings import said
from tests.helpers.nets import batch, mlp

cross_entropy = F.cross_entropy


def beside(**parts: Any) -> Wired:
    return Wired(lambda m, x: m.body(x), body=mlp(), **parts)


UNUSED: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "module": (
        lambda: beside(extra=nn.Linear(5, 5)),
        "extra",
        "the loss does not depend on 2 parameters (extra.weight and extra.bias)",
    ),
    "token": (
        lambda: beside(mask_token=nn.Parameter(torch.zeros(4))),
        "mask_token",
        "the loss does not depend on 1 parameter (mask_token)",
    ),
    "token of a block": (
        lambda: Wired(
            lambda m, x: m.inner(x),
            inner=Wired(
                lambda m, x: m.second(m.first(x)),
                first=nn.Linear(20, 8),
                second=nn.Linear(8, 5),
                mask_token=nn.Parameter(torch.zeros(4)),
            ),
        ),
        "inner",
        "the loss does not depend on 1 parameter (inner.mask_token)",
    ),
    "pooler and token": (
        lambda: beside(pooler=mlp(hidden=1), token=nn.Parameter(torch.zeros(4))),
        "token",
        "the loss does not depend on 5 parameters"
        " (token, pooler.0.weight, pooler.0.bias and 2 more)",
    ),
}


@pytest.mark.parametrize("name", UNUSED)
def test_what_the_forward_does_not_use_is_a_warning_unless_asked_for(name: str) -> None:
    build, layer, message = UNUSED[name]
    x, y = batch()
    model = build()
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert diagnosis.verdict == "warning"
    assert said(diagnosis) == [("GH405", "warning", layer)]
    assert diagnosis.findings[0].message == message
    assert_healthy(model, x, y, loss=cross_entropy)
    with pytest.raises(UnusedParameterError) as caught:
        assert_all_reached(model, x, y, loss=cross_entropy)
    assert isinstance(caught.value, UnreachedParameterError)
    assert message in str(caught.value)
    with pytest.raises(UnusedParameterError):
        assert_all_reached(diagnosis)
    assert_all_reached(model, x, y, loss=cross_entropy, ignore=["GH405"])
    model.requires_grad_(False)
    model.get_submodule("inner.first" if "block" in name else "body").requires_grad_(True)
    assert_all_reached(model, x, y, loss=cross_entropy)


@pytest.mark.parametrize("body", [lambda: nn.Linear(20, 5), mlp], ids=["Linear", "Sequential"])
def test_a_token_beside_an_only_child_is_unused_too(body: Callable[[], nn.Module]) -> None:
    token = nn.Parameter(torch.zeros(4))
    model = nn.Sequential(Wired(lambda m, x: m.body(x), body=body(), token=token))
    x, y = batch()
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert said(diagnosis)[0] == ("GH405", "warning", "0")


def test_a_token_of_the_model_beside_a_list_is_unused_too() -> None:
    model = Wired(
        lambda m, x: m.layers[1](m.layers[0](x)),
        layers=nn.ModuleList([nn.Linear(20, 8), nn.Linear(8, 5)]),
        token=nn.Parameter(torch.zeros(4)),
    )
    x, y = batch()
    assert said(probe(model, x, y, loss=cross_entropy)) == [("GH405", "warning", "token")]


def test_a_layer_whose_result_is_thrown_away_is_unused() -> None:
    x, y = batch()
    model = Wired(lambda m, x: (m.extra(x), m.body(x))[1], body=mlp(), extra=nn.Linear(20, 5))
    assert said(probe(model, x, y, loss=cross_entropy)) == [("GH405", "warning", "extra")]


def test_a_numbered_layer_of_a_block_is_no_idle_expert() -> None:
    block = Wired(lambda m, x: m.fc1(x).relu(), fc1=nn.Linear(20, 20), fc2=nn.Linear(20, 20))
    x, y = batch()
    model = nn.Sequential(block, nn.Linear(20, 5))
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert said(diagnosis) == [("GH405", "warning", "0.fc2")]
    with pytest.raises(UnusedParameterError):
        assert_all_reached(model, x, y, loss=cross_entropy)

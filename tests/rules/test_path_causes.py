"""What is said of a path is what most of it comes from: one place, layers of a kind, or weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import probe
from tests.helpers.architectures import Wired
from tests.helpers.findings import explained
from tests.helpers.nets import total


def stack(step: Callable[[int, nn.Module, Tensor], Tensor], count: int) -> nn.Module:
    """Layers one behind the other, each with a function of its own behind it."""
    torch.manual_seed(0)

    def use(m: Any, x: Tensor) -> Tensor:
        for place, layer in enumerate(m.layers):
            x = step(place, layer, x)
        out: Tensor = m.head(x)
        return out

    layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(count))
    return Wired(use, layers=layers, head=nn.Linear(32, 3))


def cause(step: Callable[[int, nn.Module, Tensor], Tensor], count: int) -> tuple[str, str]:
    diagnosis = probe(stack(step, count), torch.randn(64, 32), loss=total, confirm_steps=0)
    _, because, advice = explained(diagnosis, "GH101")
    return because, advice


@pytest.mark.parametrize("count", [2, 3, 6])
def test_one_closed_activation_is_not_what_each_of_its_kind_does(count: int) -> None:
    because, advice = cause(lambda i, layer, x: (layer(x) - 25 * (i == 1)).sigmoid(), count)
    after = "head" if count == 2 else "layers.2"
    assert because.startswith("most of it is lost in one place: x")
    assert because.endswith(f" from {after} to layers.1")
    assert advice == (
        f"look at sigmoid behind layers.1, or at Linear in {after}: its weights, and what"
        " multiplies its input (the output of layers.1)"
    )


def test_two_closed_activations_are_not_either() -> None:
    because, _ = cause(lambda i, layer, x: (layer(x) - 20 * (i in (1, 4))).sigmoid(), 6)
    assert because.startswith("the most is lost in one place: x")


def test_activations_that_do_alike_are_told_together() -> None:
    because, _ = cause(lambda _, layer, x: layer(x).sigmoid(), 10)
    assert because.startswith("10 Sigmoids let x0.")


@pytest.mark.parametrize("act", [torch.relu, torch.clone], ids=["relu", "none"])
def test_weights_that_explain_little_of_it_are_not_the_cause(
    act: Callable[[Tensor], Tensor],
) -> None:
    because, _ = cause(lambda _, layer, x: act(layer(x)) * 0.02, 6)
    assert because.startswith("it shrinks x0.")


def test_weights_that_explain_it_are() -> None:
    because, advice = cause(lambda _, layer, x: layer(x).relu(), 16)
    assert because == "the initial weights are small (variance x fan-in is 0.33, level is 2)"
    assert advice == 'nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")'


def test_weights_that_are_used_again_count_each_time() -> None:
    def again(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        for _ in range(16):
            x = m.shared(x)
        out: Tensor = m.head(x)
        return out

    stem, shared = nn.Linear(32, 32), nn.Linear(32, 32, bias=False)
    model = Wired(again, stem=stem, shared=shared, head=nn.Linear(32, 3))
    nn.init.normal_(shared.weight, std=0.05)
    diagnosis = probe(model, torch.randn(64, 32), loss=total, confirm_steps=0)
    _, because, advice = explained(diagnosis, "GH101")
    assert "each: the initial weights are small (variance x fan-in is 0." in because
    assert advice == "nn.init.orthogonal_(layer.weight)"


def test_a_function_that_hardly_bends_is_not_blamed_for_small_weights() -> None:
    def small(_: int, layer: nn.Module, x: Tensor) -> Tensor:
        nn.init.normal_(layer.weight, std=0.03)  # type: ignore[arg-type]
        return torch.tanh(layer(x))

    because, advice = cause(small, 10)
    assert because.startswith("the initial weights are small (variance x fan-in is 0.0")
    assert "calculate_gain" in advice

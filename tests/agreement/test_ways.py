"""One model run in other ways gives the same gradients, and is left as it was."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import DifferentGradientsError, ProbeError, assert_same_gradients
from tests.helpers.ranks import fully_sharded
from tests.helpers.state import unchanged, with_gradients
from tests.helpers.transformers import Decoder, batch, next_token_loss

WAYS: list[Any] = [
    ("float64", "in float64"),
    ("bfloat16", "in bfloat16"),
    ("autocast", "under autocast to bfloat16"),
    ("checkpoint", "checkpointed"),
    ("channels_last", "in channels_last"),
    ("cpu", "on cpu"),
    ("ddp", "in DistributedDataParallel on 1 process"),
    pytest.param("fully_shard", "under fully_shard on 1 process", marks=fully_sharded),
]


class Pictures(nn.Module):
    """Convolutions with batch norm and dropout, whose biases before a norm get only rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.2),
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x).mean((2, 3)))
        return out


def pictures() -> tuple[Any, ...]:
    torch.manual_seed(0)
    return Pictures(), torch.randn(8, 3, 9, 9), torch.randint(0, 4, (8,)), F.cross_entropy


def words() -> tuple[Any, ...]:
    torch.manual_seed(0)
    return Decoder(), *batch(), next_token_loss


@pytest.mark.parametrize("made", [pictures, words], ids=["pictures", "words"])
@pytest.mark.parametrize(("way", "name"), WAYS)
def test_every_way_agrees(made: Callable[[], tuple[Any, ...]], way: str, name: str) -> None:
    model, inputs, targets, loss = made()
    with_gradients(model)
    with unchanged(model, inputs, targets):
        found = assert_same_gradients(model, inputs, targets, loss=loss, via=way)
    assert found.same
    assert found.b == f"{type(model).__name__} {name}"
    gradients = {d.name for d in found.of("parameter gradient")}
    assert gradients == {name for name, _ in model.named_parameters()}
    assert found.of("layer gradient")
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("made", [pictures, words], ids=["pictures", "words"])
def test_a_compiled_model_agrees(made: Callable[[], tuple[Any, ...]], backend: str) -> None:
    model, inputs, targets, loss = made()
    with unchanged(model, inputs, targets):
        found = assert_same_gradients(
            model, inputs, targets, loss=loss, via="compile", backend=backend
        )
    assert found.b == f"{type(model).__name__} compiled by {backend}"
    assert not found.layers
    assert found.same


def test_the_compiled_model_of_the_caller_runs_compiled(tmp_path: Path) -> None:
    ran = tmp_path / "ran"  # no list: what a comparison may reach it puts back

    def backend(graph: Any, inputs: Any) -> Any:
        del inputs

        def run(*args: Any) -> Any:
            ran.touch()
            return tuple(1.0002 * out if out.is_floating_point() else out for out in graph(*args))

        return run

    model, inputs, targets, loss = words()
    compiled = torch.compile(model, backend=backend)
    with unchanged(model), pytest.raises(DifferentGradientsError) as caught:
        assert_same_gradients(model, compiled, inputs, targets, loss=loss)
    assert ran.exists()
    headline, *_ = str(caught.value).splitlines()
    assert re.fullmatch(
        r"Decoder compiled differs from Decoder: output 0 is [\d.]+, not"
        r" [\d.]+ \(L2 norm\), off by 0\.02%",
        headline,
    )
    *_, first, second = str(caught.value).splitlines()
    assert (first, second) == (
        'try:    backend="aot_eager", then "eager": the first that agrees leaves out',
        "        the part of the compiler that is wrong, or allow for it: rtol=3e-04",
    )
    assert_same_gradients(model, compiled, inputs, targets, loss=loss, rtol=0.01)


def test_a_function_makes_the_other_side() -> None:
    model, inputs, targets, loss = words()
    found = assert_same_gradients(model, inputs, targets, loss=loss, via=nn.Sequential)
    assert found.b == "Decoder by Sequential"
    found = assert_same_gradients(
        model, inputs, targets, loss=loss, via=lambda twin: lambda x: twin.forward(x)
    )
    assert found.b == "Decoder by <lambda>"


def test_a_format_that_is_too_coarse_is_told_apart_from_a_fault() -> None:
    """Scaled by a half is found in bfloat16, too."""
    model, inputs, targets, loss = words()

    def halved(twin: nn.Module) -> nn.Module:
        bias: Any = twin.to(torch.bfloat16).get_parameter("norm.bias")
        bias.register_hook(lambda gradient: gradient / 2)
        return twin

    with pytest.raises(DifferentGradientsError, match=r"norm\.bias is 0\.22, not 0\.44"):
        assert_same_gradients(model, inputs, targets, loss=loss, via=halved)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"via": "compiel"},
            "via is 'compiel', which is no way to run a model; did you mean compile?",
        ),
        ({"via": 3}, 'via is 3; pass the name of a way, for example "compile", or a function'),
        (
            {},
            "assert_same_gradients has one model and nothing to compare it with; pass another one,"
            ' assert_same_gradients(a, b, x, y, loss=...), or a way to run it, via="compile"',
        ),
        ({"via": "float64", "rtol": -1}, "rtol is -1; pass a number from 0 on, for example 1e-5"),
        (
            {"via": "float64", "weights": "b"},
            'weights is \'b\'; pass "a", or "own" to leave b its own',
        ),
        (
            {"via": lambda _: 3},
            "via <lambda> returned 3; return what is to be called with the inputs: a module, or a"
            " function",
        ),
    ],
)
def test_what_cannot_be_compared_is_told(arguments: dict[str, Any], said: str) -> None:
    model, inputs, targets, loss = words()
    call: Any = (model, inputs, targets) if "via" in arguments else (model, None, inputs, targets)
    with pytest.raises(ProbeError) as caught:
        assert_same_gradients(*call, loss=loss, **arguments)
    assert str(caught.value) == said


def test_sparse_gradients_are_compared_element_by_element() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(12, 3))
    words, labels = torch.arange(18).reshape(6, 3) % 9, torch.arange(6) % 3
    found = assert_same_gradients(model, words, labels, loss=F.cross_entropy, via="checkpoint")
    assert "0.weight" in {d.name for d in found.of("parameter gradient")}

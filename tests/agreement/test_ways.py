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
        r" [\d.]+ \(L2 norm\), off by 0\.02%: 3 digits agree",
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
        *(
            (
                {"via": "float64", "seed": seed},
                f"seed is {seed!r}; pass a whole number from 0 on, for example 0",
            )
            for seed in ("a", -1, 1.5, True, 2**63)
        ),
        (
            {"via": "compile", "backend": "inducter"},
            "backend is 'inducter'; pass the name of one or a function, for example"
            ' "aot_eager"; did you mean inductor?',
        ),
        (
            {"via": "compile", "backend": "aot_eager", "mode": "max-autotune"},
            "mode is of the backend inductor, and another one was passed; leave one out",
        ),
        (
            {"via": "float64", "together": True},
            'together is True, and via="float64" does not share the work with other processes;'
            " leave together out",
        ),
        (
            {"via": "ddp", "together": False},
            'together is False, and via="ddp" does share the work with other processes; leave'
            " together out",
        ),
        (
            {"via": "float64", "weights": "own"},
            "weights is of two models, and b was not passed; leave it out",
        ),
        (
            {"via": "float64", "renamed": {"norm": "norm"}},
            "renamed is of two models, and b was not passed; leave it out",
        ),
        (
            {"via": "float64", "backend": "eager"},
            'backend and mode are of via="compile"; pass that, or leave them out',
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


def test_a_mode_that_there_is_not_is_told() -> None:
    model, inputs, targets, loss = words()
    with pytest.raises(ProbeError, match=r"mode is 'fast'; pass one of default, .*max-autotune"):
        assert_same_gradients(model, inputs, targets, loss=loss, via="compile", mode="fast")


def test_statistics_of_all_processes_take_an_accelerator() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.SyncBatchNorm(4))
    with pytest.raises(ProbeError) as caught:
        assert_same_gradients(model, torch.randn(3, 4), None, loss=torch.sum, via="ddp")
    assert str(caught.value) == (
        "Sequential has SyncBatchNorm, which computes on accelerators alone in"
        " DistributedDataParallel; pass the model as it was before convert_sync_batchnorm"
    )


def test_a_way_that_a_model_does_not_go_is_told() -> None:
    class Fixed(nn.Linear):
        def double(self) -> Any:
            raise TypeError("of one format")

    with pytest.raises(ProbeError, match='Fixed cannot be run via "float64": TypeError: of one'):
        assert_same_gradients(Fixed(4, 2), torch.randn(3, 4), None, loss=torch.sum, via="float64")


def test_complex_weights_go_every_way() -> None:
    class Waves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3, dtype=torch.cfloat))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = (x.to(self.weight.dtype) @ self.weight).abs()
            return out

    torch.manual_seed(0)
    model, x = Waves(), torch.randn(6, 4)
    for way in ("float64", "bfloat16", "autocast", "checkpoint", "channels_last"):
        assert assert_same_gradients(model, x, None, loss=torch.sum, via=way).same


def test_sparse_gradients_are_compared_element_by_element() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(12, 3))
    words, labels = torch.arange(18).reshape(6, 3) % 9, torch.arange(6) % 3
    found = assert_same_gradients(model, words, labels, loss=F.cross_entropy, via="checkpoint")
    assert "0.weight" in {d.name for d in found.of("parameter gradient")}

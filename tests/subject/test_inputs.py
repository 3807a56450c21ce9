"""Batches that cannot be probed are refused in words that say what to pass instead, no others."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, cross_entropy

from pytest_gradhealth import probe
from tests.helpers.architectures import Apply, nan_weight
from tests.helpers.nets import mlp
from tests.helpers.refusals import check, refusal

NAN, INF = math.nan, math.inf
CLEAN = "clean the batch before the probe, or have the model do so"


class Joined(nn.Module):
    """Layers on what a function makes of the inputs."""

    def __init__(self, join: Callable[..., Tensor], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.join, self.layer = join, layer or mlp(inputs=4)

    def forward(self, *given: Any, **named: Any) -> Tensor:
        out: Tensor = self.layer(self.join(*given, **named))
        return out


def side_by_side(*given: Tensor, **named: Tensor) -> Tensor:
    return torch.cat([t.float() for t in (*given, *named.values())], 1)


def one_below_the_other(*given: Tensor) -> Tensor:
    return torch.cat(given)


X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 3
NONE = torch.zeros(16, 0, dtype=torch.long)


@pytest.mark.parametrize(
    ("inputs", "join"),
    [
        ((NONE, X), side_by_side),
        ((X, NONE), side_by_side),
        ({"categories": NONE, "numbers": X}, side_by_side),
        (([NONE, NONE, X],), lambda given: side_by_side(*given)),
        ((X, X[:0]), one_below_the_other),
        ((X[:0], X), one_below_the_other),
        (
            (torch.zeros(2, 0, dtype=torch.long), X),
            lambda edges, x: x.index_add(0, edges[1], x[edges[0]]),
        ),
    ],
    ids=["first", "last", "mapping", "list", "no later rows", "no earlier rows", "no edges"],
)
def test_a_tensor_without_elements_beside_others_is_no_empty_batch(inputs: Any, join: Any) -> None:
    assert probe(Joined(join), inputs, Y, loss=cross_entropy).verdict == "healthy"


def first(shape: tuple[int, ...]) -> str:
    return f"the batch is empty: the first input has shape {shape}; pass at least one example"


WEIGHTED = "the batch is empty: an input has shape (0, 4); pass at least one example"


@pytest.mark.parametrize(
    ("inputs", "join", "message"),
    [
        (X[:0], side_by_side, first((0, 4))),
        (NONE, side_by_side, first((16, 0))),
        ({"x": [X[:, :0]]}, lambda x: x[0], first((16, 0))),
        ((X[:0], NONE), side_by_side, first((0, 4))),
        ((X[:0], torch.eye(4)), torch.matmul, WEIGHTED),
        ((torch.eye(4), X[:0]), lambda weights, x: x @ weights, WEIGHTED),
    ],
    ids=["no examples", "no columns", "nested", "neither", "weights last", "weights first"],
)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_empty_batches_are_refused(inputs: Any, join: Any, message: str, reduction: str) -> None:
    loss = nn.CrossEntropyLoss(reduction=reduction)
    check(refusal(Joined(join), inputs, Y[:0], loss=loss), message)


def test_a_batch_on_the_meta_device_is_refused() -> None:
    check(
        refusal(mlp(), torch.empty(2, 20, device="meta")),
        "an input of shape (2, 20) is on the meta device and holds no numbers; pass a real batch",
    )


def holed(value: float = NAN) -> Tensor:
    x = X.clone()
    x[3, 1] = x[5, 2] = value
    return x


def indicated(x: Tensor) -> Tensor:
    return x.nan_to_num() + x.isnan().float()


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (Joined(indicated), holed()),
        (Joined(indicated, nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))), holed()),
        (nn.Sequential(nn.Flatten(), nn.Identity(), Joined(indicated)), holed()),
        (Joined(lambda x: torch.where(x.isnan(), 0.5, x)), holed().double().float()),
        (Joined(lambda x: 1 / (1 + x.abs())), holed(INF)),
        (Joined(lambda x: x.nan_to_num()), holed().requires_grad_()),
    ],
    ids=["indicated", "deep", "passed on", "filled", "infinity", "requires grad"],
)
def test_missing_values_that_the_model_handles_are_no_error(model: Any, inputs: Any) -> None:
    diagnosis = probe(model, inputs, Y, loss=cross_entropy)
    assert diagnosis.verdict == "healthy", diagnosis


def test_examples_with_missing_values_may_be_left_out() -> None:
    def complete(x: Tensor) -> Tensor:
        return x[~x.isnan().any(1)]

    assert probe(Joined(complete), holed()).verdict == "healthy"


def test_a_sick_model_with_missing_values_is_sick() -> None:
    model = Joined(indicated, mlp(nn.Sigmoid, hidden=10, inputs=4))
    diagnosis = probe(model, holed(), Y, loss=cross_entropy)
    assert [finding.code for finding in diagnosis.findings] == ["GH101"]


@pytest.mark.parametrize(
    ("inputs", "what"),
    [
        (holed(), "NaN (2 of 64 elements of an input of shape (16, 4))"),
        (holed(INF), "inf (2 of 64 elements of an input of shape (16, 4))"),
        (
            (X, {"x": torch.complex(X, holed())}),
            "NaN (2 of 64 elements of an input of shape (16, 4))",
        ),
        (holed().half(), "NaN (2 of 64 elements of an input of shape (16, 4))"),
        (holed().to(torch.float8_e4m3fn), "NaN (2 of 64 elements of an input of shape (16, 4))"),
    ],
    ids=["NaN", "infinity", "complex", "half", "float8"],
)
def test_inputs_that_make_a_loss_or_gradient_nan_are_named(inputs: Any, what: str) -> None:
    def joined(x: Tensor, more: dict[str, Tensor] | None = None) -> Tensor:
        return x.float() if more is None else x + more["x"].imag

    error = refusal(Joined(joined), inputs, Y, loss=cross_entropy)
    cause = NotImplementedError if "float8" in str(getattr(inputs, "dtype", "")) else None
    check(error, f"the inputs hold {what}; {CLEAN}", cause)


def test_missing_values_are_not_blamed_for_what_the_model_makes() -> None:
    model = nn.Sequential(Apply(indicated), nn.Linear(4, 8), nan_weight())
    diagnosis = probe(model, holed(), Y, loss=cross_entropy)
    assert diagnosis.of(["GH301"])[0].message == (
        "the forward pass turns NaN in 2 (Linear): its weight is not finite"
    )


def test_an_error_says_so_where_the_inputs_hold_nan() -> None:
    model = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
    check(
        refusal(model, holed(), X[:, :1].sigmoid(), loss=binary_cross_entropy),
        "loss binary_cross_entropy raised RuntimeError: all elements of input should be between 0"
        " and 1\n  it was called with outputs: (16, 1) float32; targets: (16, 1) float32\n  the"
        " inputs hold NaN (2 of 64 elements of an input of shape (16, 4))",
        RuntimeError,
    )

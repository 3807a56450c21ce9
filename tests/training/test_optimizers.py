"""Optimizers that cannot be used are refused in words that say what to pass instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from pytest_gradhealth import probe
from pytest_gradhealth.training.optimizers import build
from tests.helpers.nets import batch, mlp
from tests.helpers.refusals import check, raising, refusal

cross_entropy = nn.functional.cross_entropy


class Warming:
    """Sets the rate of an optimizer before each of its steps, and is none itself."""

    def __init__(self, inner: SGD) -> None:
        self.inner = inner


@pytest.mark.parametrize(
    ("optimizer", "message", "cause"),
    [
        (
            "adam",
            "optimizer is a str; pass a class (torch.optim.SGD), a factory"
            " (lambda params: torch.optim.SGD(params, lr=0.1)) or an optimizer",
            None,
        ),
        (
            0.1,
            "optimizer is a float; pass a class (torch.optim.SGD), a factory"
            " (lambda params: torch.optim.SGD(params, lr=0.1)) or an optimizer",
            None,
        ),
        (
            raising,
            "optimizer raised KeyError: 'nothing'; pass a factory that takes the parameters, for"
            " example lambda params: torch.optim.SGD(params, lr=0.1)",
            KeyError,
        ),
        (
            lambda _: "adam",
            "optimizer returned a str, not a torch.optim.Optimizer",
            None,
        ),
        (
            lambda _: SGD(mlp().parameters(), lr=0.1),
            "optimizer returned one over other parameters than it was given; build it from its"
            " argument, for example lambda params: torch.optim.SGD(params, lr=0.1)",
            None,
        ),
        (
            SGD(mlp().parameters(), lr=0.1),
            "optimizer holds none of the model's parameters: it was built over another model's, or"
            " before these were made anew (a copy, fully_shard, load_state_dict(assign=True));"
            " build it from this model's parameters(), or pass its class",
            None,
        ),
        (
            {"body": SGD(mlp().parameters(), lr=0.1)},
            "optimizer is a dict; pass those in it as a list, [*optimizers.values()]",
            None,
        ),
        (
            Warming(SGD(mlp().parameters(), lr=0.1)),
            "optimizer is a Warming; pass the torch.optim.Optimizer that it holds, its .inner",
            None,
        ),
    ],
    ids=[
        *("text", "number", "raising", "no optimizer", "own parameters", "of another model"),
        *("mapping", "what holds one"),
    ],
)
def test_optimizers_of_the_wrong_kind(
    optimizer: Any, message: str, cause: type[Exception] | None
) -> None:
    check(refusal(mlp(), optimizer=optimizer), message, cause)


def test_a_class_that_fails_on_the_models_parameters() -> None:
    class Picky(SGD):
        def __init__(self, params: Any) -> None:
            raise ValueError("no")

    x, y = batch()
    check(
        refusal(mlp(nn.Sigmoid, hidden=10), x, y, loss=cross_entropy, optimizer=Picky),
        "optimizer raised ValueError: no; pass a factory that takes the parameters, for example"
        " lambda params: torch.optim.SGD(params, lr=0.1)",
        ValueError,
    )


def test_an_optimizer_whose_step_raises() -> None:
    class Failing(SGD):
        def step(self, closure: Any = None) -> Any:
            raise ValueError("no")

    x, y = batch()
    check(
        refusal(mlp(nn.Sigmoid, hidden=10), x, y, loss=cross_entropy, optimizer=Failing),
        "optimizer Failing raised ValueError: no in its step",
        ValueError,
    )


@pytest.mark.parametrize("as_instance", [False, True])
def test_an_optimizer_that_needs_a_closure_is_fine(as_instance: bool) -> None:
    (x, y), model = batch(), mlp(nn.Sigmoid, hidden=10)

    def build(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(parameters, max_iter=2)

    optimizer: Any = build(model.parameters()) if as_instance else build
    assert len(probe(model, x, y, loss=cross_entropy, optimizer=optimizer).profiles) == 2


@pytest.mark.parametrize("steps", [0, 5])
def test_a_factory_may_choose_among_its_parameters(steps: int) -> None:
    (x, y), model = batch(), mlp(nn.Sigmoid, hidden=10)

    def weights_only(parameters: Any) -> torch.optim.Optimizer:
        return SGD([p for p in parameters if p.dim() > 1], lr=0.1)

    arguments: dict[str, Any] = {"optimizer": weights_only, "confirm_steps": steps}
    diagnosis = probe(model, x, y, loss=cross_entropy, **arguments)
    assert diagnosis.optimizer == "SGD(lr=0.1)"


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64], ids=str
)
def test_adam_takes_gradients_of_any_kind_laid_out_in_any_way(dtype: torch.dtype) -> None:
    start, gradient = torch.randn(3, 4, dtype=dtype), torch.randn(4, 3, dtype=dtype).t()
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    steppers = build(None, [ours], fused=True), torch.optim.Adam([theirs], lr=1e-3)
    for parameter, stepper in zip((ours, theirs), steppers, strict=True):
        for _ in range(3):
            parameter.grad = gradient.clone(memory_format=torch.preserve_format)
            assert not parameter.grad.is_contiguous()
            stepper.step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "laid_out",
    [lambda: torch.zeros(4, 6)[:, ::2], lambda: torch.zeros(1).expand(3)],
    ids=["with gaps", "one number for all"],
)
def test_what_is_not_dense_is_not_stepped_by_its_memory(laid_out: Callable[[], Any]) -> None:
    parameter = nn.Parameter(laid_out())
    parameter.grad = torch.ones(parameter.shape)
    assert not build(None, [parameter], fused=True).defaults["fused"]
    assert build(None, [nn.Parameter(torch.zeros(6, 4).t())], fused=True).defaults["fused"]

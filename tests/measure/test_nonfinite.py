"""The module that made the first NaN or infinity is named, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import probe
from tests.helpers.architectures import Apply, around, nan_weight
from tests.helpers.nets import batch, mlp


class Parent(nn.Module):
    """Applies a function itself, between two children."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(20, 8), nn.Linear(8, 5)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.after(self.function(self.before(x)))
        return out


def message(model: nn.Module, loss: Callable[[Tensor], Tensor] | None = None) -> tuple[str, str]:
    diagnosis = probe(model, batch()[0], loss=loss)
    assert diagnosis.verdict == "failure"
    (finding,) = diagnosis.of(["GH301"])
    return finding.layer, finding.message


@pytest.mark.parametrize(
    ("model", "layer", "text"),
    [
        (
            lambda: around(Apply(lambda x: (x.abs() * 1e30).exp())),
            "2",
            "the forward pass turns infinite in 2 (Apply), in exp: its input was finite",
        ),
        (
            lambda: around(Apply(lambda x: (x - x) / (x - x))),
            "2",
            "the forward pass turns NaN in 2 (Apply), in div: its input was finite",
        ),
        (
            lambda: around(nan_weight()),
            "2",
            "the forward pass turns NaN in 2 (Linear): its weight is not finite",
        ),
        (
            lambda: nn.Sequential(nn.Linear(20, 20), Parent(lambda x: x / 0), nn.Linear(5, 2)),
            "1",
            "the forward pass turns infinite in 1 (Parent), in div: its input was finite",
        ),
        (
            lambda: around(Apply(lambda x: (x * 0).sqrt())),
            "2",
            "the gradient turns infinite in 2 (Apply), in the backward of Sqrt: what came from the"
            " loss was finite",
        ),
        (
            lambda: nn.Sequential(nn.Linear(20, 20), Parent(lambda x: (x * 0).sqrt())),
            "1",
            "the gradient turns infinite in 1 (Parent), in the backward of Sqrt: what came from the"
            " loss was finite",
        ),
    ],
    ids=["inf", "nan", "nan weight", "between children", "backward", "backward of a parent"],
)
def test_the_producer_is_named(model: Callable[[], nn.Module], layer: str, text: str) -> None:
    assert message(model()) == (layer, text)


def test_a_loss_of_its_own_making() -> None:
    layer, text = message(mlp(), lambda y: (y - y).sum().log() + y.sum() * 0)
    assert layer == "(loss)"
    assert text == "the loss is infinite, in log, although every layer's output is finite"


def test_a_gradient_that_turns_bad_in_the_loss() -> None:
    layer, text = message(mlp(), lambda y: (y - y).sum().sqrt())
    assert layer == "(loss)"
    assert text == (
        "the gradient turns infinite in (loss), in the backward of Sqrt: what came from the loss"
        " was finite"
    )


def test_overflow_in_half_precision_is_found() -> None:
    layers = [nn.Linear(1, 1, bias=False) for _ in range(10)]
    for layer in layers:
        nn.init.constant_(layer.weight, 10.0)
    model = nn.Sequential(*layers).half()
    diagnosis = probe(model, torch.ones(1, 1, dtype=torch.float16))
    assert diagnosis.findings[0].message == (
        "the forward pass turns infinite in 4 (Linear), in mm: its input was finite"
    )


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_teacher_without_gradients_does_not_hide_where_a_nan_is(context: Any) -> None:
    class Student(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.teacher, self.own = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            with context():
                taught = self.teacher(x)
            out: Tensor = (self.own(x) - 99).log() + taught
            return out

    diagnosis = probe(Student(), torch.randn(8, 4))
    (finding,) = diagnosis.of(["GH301"])
    assert finding.message == (
        "the forward pass turns NaN in (output) (Student), in log: its input was finite"
    )

"""GH301 names the module that produced the first NaN or infinity, forward or backward."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import NonFiniteGradientError, assert_no_vanishing, probe
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
            "the forward pass turns infinite in 2 (Apply): its input was finite",
        ),
        (
            lambda: around(Apply(lambda x: (x - x) / (x - x))),
            "2",
            "the forward pass turns NaN in 2 (Apply): its input was finite",
        ),
        (
            lambda: around(nan_weight()),
            "2",
            "the forward pass turns NaN in 2 (Linear): its weight is not finite",
        ),
        (
            lambda: nn.Sequential(nn.Linear(20, 20), Parent(lambda x: x / 0), nn.Linear(5, 2)),
            "1",
            "the forward pass turns infinite in 1 (Parent): its input was finite",
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
    assert text == "the loss is infinite, although every layer's output is finite"


def test_a_gradient_that_turns_bad_in_the_loss() -> None:
    layer, text = message(mlp(), lambda y: (y - y).sum().sqrt())
    assert layer == "(loss)"
    assert text == (
        "the gradient turns infinite in (loss), in the backward of Sqrt: what came from the loss"
        " was finite"
    )


def test_masks_of_minus_infinity_are_no_finding() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    mask = nn.Transformer.generate_square_subsequent_mask(6)
    diagnosis = probe(layer, {"src": torch.randn(4, 6, 16), "src_mask": mask})
    assert diagnosis.verdict == "healthy"


class Masking(nn.Module):
    """Returns a score matrix with -inf above the diagonal, as attention code does."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.mask, self.value = nn.Linear(8, 8), Apply(self.masked), nn.Linear(8, 8)

    @staticmethod
    def masked(scores: Tensor) -> Tensor:
        upper = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        return scores.masked_fill(upper, -math.inf)

    def forward(self, x: Tensor) -> Tensor:
        weights: Tensor = self.mask(self.query(x) @ x.mT).softmax(-1)
        mixed: Tensor = weights @ self.value(x)
        return mixed


def test_an_output_with_minus_infinity_is_no_finding_by_itself() -> None:
    assert probe(Masking(), torch.randn(4, 6, 8)).verdict == "healthy"


def test_nan_that_stays_inside_is_a_warning() -> None:
    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.broken = mlp(), Apply(lambda x: x / 0 * 0)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.body(x)
            self.broken(out)
            return out

    diagnosis = probe(Inside(), batch()[0])
    assert diagnosis.verdict == "warning"
    assert diagnosis.findings[0].message == (
        "NaN in the output of broken, although loss and gradients are finite"
    )


def test_an_infinite_slope_that_a_relu_masks_is_a_warning() -> None:
    model = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), Apply(torch.sqrt), nn.Linear(8, 5))
    diagnosis = probe(model, batch()[0])
    assert all(math.isfinite(p.gradient or 0.0) for p in diagnosis.profile.parameters)
    (finding,) = diagnosis.of(["GH301"])
    assert finding.severity == "warning"
    assert finding.message == (
        "the gradient turns infinite in 2 (Apply), in the backward of Sqrt: what came from the"
        " loss was finite; no parameter is hit yet"
    )


def test_no_assertion_passes_on_numbers_that_cannot_be_compared() -> None:
    with pytest.raises(NonFiniteGradientError, match="turns NaN in 2"):
        assert_no_vanishing(around(nan_weight()), batch()[0])


def test_overflow_in_half_precision_is_found() -> None:
    layers = [nn.Linear(1, 1, bias=False) for _ in range(10)]
    for layer in layers:
        nn.init.constant_(layer.weight, 10.0)
    model = nn.Sequential(*layers).half()
    diagnosis = probe(model, torch.ones(1, 1, dtype=torch.float16))
    assert diagnosis.findings[0].message == (
        "the forward pass turns infinite in 4 (Linear): its input was finite"
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
        "the forward pass turns NaN in (output) (Student): its input was finite"
    )

"""NaN and infinities fail where they do harm, and warn where they do not yet."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import NonFiniteGradientError, assert_no_vanishing, probe
from tests.helpers.architectures import Apply, around, nan_weight
from tests.helpers.nets import batch, mlp


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

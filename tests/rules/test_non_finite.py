"""NaN and infinities fail where they do harm, and warn where they do not yet."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import (
    NonFiniteGradientError,
    assert_healthy,
    assert_no_vanishing,
    probe,
    suggest,
)
from tests.helpers.architectures import Apply, around, nan_weight
from tests.helpers.findings import explained
from tests.helpers.functions import function
from tests.helpers.nets import batch, mlp, total


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


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 5))


EMPTY: dict[str, Callable[[Tensor], Tensor]] = {
    "log of dead units": lambda y: torch.log(nn.functional.relu(y - 100)).mean(),
    "mean of nothing": lambda y: y[y > 1e9].mean(),
    "log determinant": lambda y: torch.logdet(torch.eye(3) * -y.square().sum()) + y.sum(),
    "rounding, then a division": lambda y: (1 / (y * 0).round()).mean(),
}


@pytest.mark.parametrize("case", EMPTY)
def test_what_is_not_finite_is_told_before_what_comes_of_it(case: str) -> None:
    """No gradient comes from such a loss, and nothing in the model keeps it back."""
    with pytest.raises(NonFiniteGradientError) as caught:
        assert_healthy(net(), batch()[0], loss=EMPTY[case], remedy_budget=0)
    assert caught.value.findings[0].code == "GH301"
    diagnosis = caught.value.diagnosis
    assert diagnosis is not None
    assert diagnosis.profile.stops == ()


def test_no_remedy_is_listed_that_changes_nothing_of_an_infinite_loss() -> None:
    diagnosis = probe(nn.Linear(20, 5), batch()[0], loss=EMPTY["log of dead units"])
    tried = suggest(diagnosis, budget=5)
    assert {treatment.outcome for treatment in tried} <= {"cannot"}


def test_outputs_that_overflow_are_told_before_their_size() -> None:
    x = 1e4 * torch.randn(8, 20).half()
    model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 5)).half()
    diagnosis = probe(model, x, torch.zeros(8, 5).half(), loss=nn.functional.mse_loss)
    assert diagnosis.findings[0].code == "GH301"


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_buffer_that_is_not_finite_is_named(value: float) -> None:
    class Standardised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net()
            self.register_buffer("mean", torch.full((20,), value))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.body(x * self.get_buffer("mean"))
            return out

    message, because, _ = explained(probe(Standardised(), batch()[0]), "GH301")
    assert message.endswith("in (output) (Standardised): its mean is not finite")
    assert because == "mean of (output) holds it"


def test_a_parameter_that_is_not_finite_is_named_where_what_comes_of_it_is() -> None:
    model = net()
    nn.init.constant_(model.get_submodule("0").get_parameter("bias"), math.inf)
    diagnosis = probe(model, batch()[0], loss=total)
    assert diagnosis.findings[0].message == "not finite, and without a gradient: 0.bias"
    assert explained(diagnosis, "GH301")[1] == "0.bias was not finite to start with"


def test_a_mask_among_the_parameters_is_no_finding() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net()
            self.mask = nn.Parameter(torch.tensor([0.0, 0.0, 0.0, 0.0, -math.inf]))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = (self.body(x) + self.mask).softmax(-1)
            return out

    y = torch.rand(len(batch()[0]), 5)
    diagnosis = probe(Masked(), batch()[0], y, loss=nn.functional.mse_loss)
    assert diagnosis.of(["GH301"]) == ()


def test_targets_that_are_missing_are_the_cause_in_the_backward() -> None:
    x, y = batch()[0], torch.rand(len(batch()[0]), 5)
    y[0] = math.nan
    diagnosis = probe(net(), x, y, loss=lambda out, y: ((out - y) ** 2).nanmean())
    assert explained(diagnosis, "GH301")[1] == "the targets hold NaN or infinity"


#: What a loss makes of outputs and targets.
LOSSES = {
    "mse_loss": nn.functional.mse_loss,
    "l1_loss": nn.functional.l1_loss,
    "by hand": lambda out, y: ((out - y) ** 2).mean(),
    "of a part": lambda out, y: ((out[:, 0] - y[:, 0]) ** 2).mean(),
    "scaled": lambda out, y: nn.functional.mse_loss(out, (y - y.mean()) / y.std()),
    "of logits": nn.functional.binary_cross_entropy_with_logits,
}


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_targets_that_are_not_finite_are_the_cause(
    loss: Callable[[Tensor, Tensor], Tensor], value: float
) -> None:
    x, y = batch()[0], torch.rand(len(batch()[0]), 5)
    y[3, 0] = value
    message, *cause = explained(probe(net(), x, y, loss=loss), "GH301")
    assert message.endswith(": the targets are not finite")
    assert cause == [
        "the targets hold NaN or infinity",
        "leave out what has no target: keep = y.isfinite()",
    ]


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinite_targets_are_the_cause_in_the_backward(value: float) -> None:
    x, y = batch()[0], torch.rand(len(batch()[0]), 5)
    y[0] = value
    diagnosis = probe(
        net(), x, y, loss=lambda out, y: torch.where(y.isfinite(), (out - y) ** 2, 0).mean()
    )
    assert explained(diagnosis, "GH301")[1] == "the targets hold NaN or infinity"


def test_targets_that_the_loss_leaves_out_are_not_the_cause() -> None:
    x, y = batch()[0], torch.rand(len(batch()[0]), 5)
    y[0] = math.inf
    diagnosis = probe(
        net(),
        x,
        y,
        loss=lambda out, y: torch.where(y.isfinite(), out - y, 0).mean() + (out - out).log().mean(),
    )
    assert explained(diagnosis, "GH301")[:2] == (
        "the loss is infinite, in log, although every layer's output is finite",
        "log of 0",
    )


def test_a_mask_among_the_targets_is_told_by_what_mixes_it() -> None:
    x, y = batch()[0], torch.full((len(batch()[0]), 5), -math.inf)
    diagnosis = probe(net(), x, y, loss=lambda out, mask: (out + mask).softmax(-1).square().mean())
    assert explained(diagnosis, "GH301")[0] == (
        "the loss is NaN, in softmax, although every layer's output is finite"
    )


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_what_a_loss_closes_over_is_told_where_nothing_has_made_it(value: float) -> None:
    known = torch.full((len(batch()[0]), 5), value)
    diagnosis = probe(net(), batch()[0], loss=lambda out: nn.functional.mse_loss(out, known))
    assert explained(diagnosis, "GH301")[1:] == (
        "what the loss gets besides the model's outputs holds NaN or infinity: a target, a weight"
        " or a constant",
        "look at what it closes over; leave out what has no target: keep = y.isfinite()",
    )


def test_a_backward_that_no_mode_can_look_into_is_looked_at_from_outside() -> None:
    def backward(gradient: Tensor) -> Tensor:
        if torch.utils._python_dispatch.is_in_torch_dispatch_mode():
            raise NotImplementedError
        return gradient * math.inf

    root = function("Root", lambda x: x * 1, backward)
    diagnosis = probe(net(), batch()[0], loss=lambda outputs: root(outputs).sum())
    message, because, _ = explained(diagnosis, "GH301")
    assert message == (
        "the gradient turns infinite in (loss), in the backward of Root: what came from the loss"
        " was finite"
    )
    assert because == ""


def test_all_inputs_zero_are_the_cause_of_zero_gradients() -> None:
    model = nn.Sequential(nn.Linear(20, 16, bias=False), nn.ReLU(), nn.Linear(16, 5))
    diagnosis = probe(model, torch.zeros(8, 20), loss=total)
    causes = {explained(diagnosis, finding.code)[1] for finding in diagnosis.findings[:1]}
    assert causes == {"all inputs are zero"}

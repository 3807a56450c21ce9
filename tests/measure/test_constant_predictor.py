"""What one answer for all examples comes to, in closed form and where there is none."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, cross_entropy, mse_loss

from pytest_gradhealth.measure.constant_predictor import constant_answer, yardstick
from pytest_gradhealth.results.yardstick import Yardstick
from pytest_gradhealth.subject.subject import Subject
from tests.helpers.nets import batch

X, Y = batch(examples=32)


def guess(loss: Any, outputs: int, targets: Any, *last: nn.Module) -> float | None:
    subject = Subject(
        nn.Sequential(nn.Linear(20, outputs), *last), X, targets, loss, torch.device("cpu")
    )
    return constant_answer(subject)


def test_the_best_constant_answer_in_closed_form() -> None:
    shares = (Y.bincount() / len(Y)).tolist()
    entropy = -sum(share * math.log(share) for share in shares if share)
    assert guess(cross_entropy, 5, Y) == pytest.approx(entropy, rel=1e-3)

    numbers = torch.randn(32, 3)
    variance = numbers.var(0, correction=0).mean().item()
    assert guess(mse_loss, 3, numbers) == pytest.approx(variance, rel=1e-4)

    labels = (torch.arange(32) % 4 == 0).float()[:, None]
    logits = guess(nn.functional.binary_cross_entropy_with_logits, 1, labels)
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert logits == pytest.approx(expected, rel=1e-3)
    probabilities = guess(binary_cross_entropy, 1, labels, nn.Sigmoid())
    assert probabilities is None or probabilities == pytest.approx(expected, rel=0.05)


class Returning(nn.Linear):
    """Returns what is made of its output."""

    def __init__(self, outputs: int, made: Callable[[Tensor], Any]) -> None:
        super().__init__(20, outputs)
        self.made = made

    def forward(self, x: Tensor) -> Any:
        return self.made(super().forward(x))


def measured(
    loss: Callable[..., Tensor], outputs: int, made: Callable[[Tensor], Any], x: Tensor, y: Any
) -> Yardstick:
    return yardstick(Subject(Returning(outputs, made), x, y, loss, torch.device("cpu")))


def entropy(labels: Tensor) -> float:
    shares = labels.flatten().bincount() / labels.numel()
    return float(-shares.xlogy(shares).sum())


def test_each_of_several_outputs_has_its_own_constant_answer() -> None:
    numbers = torch.randn(32)

    def loss(outputs: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(outputs[0], targets[0]) + mse_loss(outputs[1], targets[1])

    found = measured(loss, 6, lambda out: (out[:, :5], out[:, 5]), X, (Y, numbers))
    expected = entropy(Y) + numbers.var(correction=0).item()
    assert found.constant == pytest.approx(expected, rel=1e-3)
    assert found.spread > 0
    assert not found.can_be_negative


@pytest.mark.parametrize("examples", [1, 2, 9])
@pytest.mark.parametrize("last", [False, True])
def test_few_examples_of_dense_targets_share_one_answer_for_all_positions(
    examples: int, last: bool
) -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs.transpose(1, 2) if last else outputs, targets)

    labels = torch.arange(examples * 7).view(examples, 7) % 3
    x = torch.randn(examples, 7, 20)
    found = measured(loss, 3, lambda out: out if last else out.transpose(1, 2), x, labels)
    assert found.constant == pytest.approx(entropy(labels), rel=1e-3)


def test_many_examples_have_an_answer_for_each_position() -> None:
    labels = (torch.arange(32)[:, None] + torch.arange(7)) % 2 * torch.tensor([0, 0, 0, 0, 0, 0, 1])
    found = measured(
        lambda outputs, targets: cross_entropy(outputs.transpose(1, 2), targets),
        *(2, lambda out: out, torch.randn(32, 7, 20), labels),
    )
    assert found.constant == pytest.approx(math.log(2) / 7, rel=1e-2)


@pytest.mark.parametrize(
    ("loss", "x", "targets"),
    [
        (lambda outputs, _: outputs.mean(), X, None),  # no lowest loss
        (lambda outputs, _: (outputs - 1).square().mean(), X, None),  # right for everyone
        (mse_loss, X[:1], torch.ones(1, 5)),  # one example
        (cross_entropy, X, torch.ones(32, dtype=torch.long)),  # nothing to tell apart
    ],
)
def test_an_answer_that_no_model_can_beat_tells_nothing(
    loss: Callable[..., Tensor], x: Tensor, targets: Any
) -> None:
    assert math.isnan(measured(loss, 5, lambda out: out, x, targets).constant)


LABELS = torch.arange(32) % 4
COUNTS = (torch.arange(32.0) % 8)[:, None]
HALF = (COUNTS > 3).float()


@pytest.mark.parametrize("size", [0.0, 1.0, 1e7])
@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "expected"),
    [
        (cross_entropy, 4, LABELS, math.log(4)),
        (mse_loss, 1, COUNTS, COUNTS.var(correction=0).item()),
        (mse_loss, 1, 1e8 * COUNTS, 1e16 * COUNTS.var(correction=0).item()),
        (nn.functional.binary_cross_entropy_with_logits, 1, HALF, math.log(2)),
        (lambda o, t: (o.exp() - t * o).mean(), 1, COUNTS, 3.5 - 3.5 * math.log(3.5)),
    ],
    ids=["labels", "numbers", "huge numbers", "yes or no", "counts"],
)
def test_the_best_answer_is_found_whatever_the_outputs_are(
    loss: Callable[..., Tensor], outputs: int, targets: Tensor, expected: float, size: float
) -> None:
    found = measured(loss, outputs, lambda out: size * out, X, targets)
    assert found.constant == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_the_spread_of_huge_outputs_is_that_of_the_best_answer() -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.exp() - targets * outputs).mean()

    found = measured(loss, 1, lambda out: 1e7 * out, X, COUNTS)
    expected = math.log(3.5) * COUNTS[:16].std(correction=0).item()
    assert found.spread == pytest.approx(expected, rel=1e-3)


def test_the_spread_is_that_of_single_examples() -> None:
    found = measured(
        lambda out, _: 3 * out.mean() - 9, 1, lambda out: out[:, 0] * 0 + X[:, 0], X, 0
    )
    assert found.spread == pytest.approx(3 * X[:16, 0].std(correction=0).item(), rel=1e-4)
    assert found.can_be_negative


def test_without_a_loss_there_is_nothing_to_hold_against() -> None:
    assert guess(None, 5, None) is None

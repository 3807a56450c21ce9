"""An MNIST classifier, made deep: with sigmoids the gradient vanishes, with ReLU it arrives.

A sigmoid's slope is at most 1/4. Ten of them leave at most 0.25**10, a millionth, of the gradient
for the first layer, and PyTorch's default initialisation takes its share on top. The linter rejects
that network before it is trained; the training runs below show that it is right.
"""

from __future__ import annotations

import pytest
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from examples.mnist.digits import batches
from examples.mnist.models import Classifier, DeepClassifier
from examples.mnist.training import accuracy, train
from pytest_gradhealth import GradHealth, VanishingGradientError

Digits = tuple[Tensor, Tensor]


def test_classifier(gradhealth: GradHealth, batch: Digits) -> None:
    """The shallow classifier passes every rule."""
    gradhealth.assert_healthy(Classifier(), *batch, loss=cross_entropy)


@pytest.mark.xfail(strict=True, raises=VanishingGradientError, reason="ten sigmoid layers")
def test_deep_sigmoid(gradhealth: GradHealth, batch: Digits) -> None:
    """Ten hidden sigmoid layers: the gradient all but disappears."""
    gradhealth.assert_no_vanishing(DeepClassifier(nn.Sigmoid), *batch, loss=cross_entropy)


def test_deep_relu(gradhealth: GradHealth, batch: Digits) -> None:
    """The same depth with ReLU and the initialisation made for it; both checks share one probe."""
    model = DeepClassifier(nn.ReLU, kaiming=True)
    gradhealth.assert_no_vanishing(model, *batch, loss=cross_entropy)
    gradhealth.assert_no_exploding(model, *batch, loss=cross_entropy)


def test_deep_sigmoid_does_not_learn(training_digits: Digits, test_digits: Digits) -> None:
    """What the linter rejects stays at chance level, one digit in ten."""
    model = DeepClassifier(nn.Sigmoid)
    losses = train(model, batches(*training_digits, epochs=2))
    assert min(losses[-10:]) > 2.2, "the loss of guessing is log(10) = 2.3"
    assert accuracy(model, *test_digits) < 0.2


def test_deep_relu_learns(training_digits: Digits, test_digits: Digits) -> None:
    """What the linter accepts learns to read digits in the same two epochs."""
    model = DeepClassifier(nn.ReLU, kaiming=True)
    losses = train(model, batches(*training_digits, epochs=2))
    assert max(losses[-10:]) < 1.0
    assert accuracy(model, *test_digits) > 0.7

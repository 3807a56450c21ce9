"""Faults of which no gradient at the initialisation tells: rates, labels, targets, losses."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.nn import functional as F

from examples.study.faults.batches import circles, digits, parabola, shuffled, table, thirds
from examples.study.faults.collections import CHECKER, POST
from examples.study.faults.losses import broadcast_error
from examples.study.faults.parts import (
    digit_tower,
    fault,
    frozen_but_last,
    glorot,
    he,
    keras_uniform,
    softmax,
    tower,
)
from examples.study.network import Fault


def faults_out_of_reach() -> tuple[Fault, ...]:
    """Return them, each with the reason."""
    no = partial(fault, family="out of reach")
    small = partial(digit_tower, 64, 2, nn.ReLU, he)
    curve = partial(tower, (1, 50, 30, 1), nn.ReLU, glorot)
    return (
        no(
            "learning rate of .1 for 5 x^2",
            source=POST.format(48934338),
            symptom="the loss becomes infinite",
            remedy="standardised x and y, with which the rate is fine; the post's rate of .001",
            sick=curve,
            cured=curve,
            batch=partial(parabola, scaled=False),
            cured_batch=partial(parabola, scaled=True),
            loss=F.mse_loss,
            out_of_reach="the rate belongs to the optimizer, and the network trains with another",
        ),
        no(
            "ReLU output for negative targets",
            source=POST.format(48251943),
            symptom="targets below 0 are out of the output's range",
            remedy="linear output",
            sick=partial(tower, (2, 4, 1), nn.ReLU, glorot, output=nn.ReLU),
            cured=partial(tower, (2, 4, 1), nn.ReLU, glorot),
            batch=partial(thirds, 2),
            loss=F.mse_loss,
            out_of_reach="the targets' range is wrong; the gradient is that of any ReLU",
        ),
        no(
            "sigmoid output for targets around 0",
            source=POST.format(31556268),
            symptom="half of the targets are out of the output's range",
            remedy="linear output",
            sick=partial(tower, (20, 20, 1), nn.Tanh, output=nn.Sigmoid),
            cured=partial(tower, (20, 20, 1), nn.Tanh),
            batch=partial(thirds, 20),
            loss=F.mse_loss,
            out_of_reach="the targets' range is wrong; the gradient is that of any sigmoid",
        ),
        no(
            "no activations",
            source=POST.format(47352366),
            symptom="a linear classifier, however deep",
            remedy="ReLU",
            sick=partial(tower, (2, 16, 16, 1), nn.Identity),
            cured=partial(tower, (2, 16, 16, 1), nn.ReLU),
            batch=circles,
            loss=F.binary_cross_entropy_with_logits,
            out_of_reach="a linear network has the healthiest of gradients",
        ),
        no(
            "softmax before CrossEntropyLoss",
            source="PyTorch documentation, CrossEntropyLoss: expects logits",
            symptom="the loss cannot fall below 1.46",
            remedy="logits",
            sick=partial(digit_tower, 64, 2, nn.ReLU, he, output=softmax),
            cured=small,
            batch=digits,
            out_of_reach="the loss is the wrong one, and its gradient reaches every layer",
        ),
        no(
            "sigmoid before BCEWithLogitsLoss",
            source="PyTorch documentation, BCEWithLogitsLoss: has the sigmoid",
            symptom="probabilities between .5 and .73",
            remedy="logits",
            sick=partial(tower, (20, 64, 1), nn.ReLU, output=nn.Sigmoid),
            cured=partial(tower, (20, 64, 1), nn.ReLU),
            batch=partial(table, 20),
            loss=F.binary_cross_entropy_with_logits,
            out_of_reach="the loss is the wrong one, and its gradient reaches every layer",
        ),
        no(
            "outputs (n, 1) against targets (n,)",
            source="PyTorch, warning of mse_loss: a target size that differs from the input size",
            symptom="all pairs are compared: the mean is predicted",
            remedy="targets (n, 1)",
            sick=partial(tower, (20, 64, 1), nn.ReLU),
            cured=partial(tower, (20, 64, 1), nn.ReLU),
            batch=partial(thirds, 20),
            loss=broadcast_error,
            cured_loss=F.mse_loss,
            out_of_reach="the gradient is the right one of the wrong loss",
        ),
        no(
            "labels of other examples",
            source=CHECKER.format("synthetic, corrupted labels"),
            symptom="what is learned by heart does not generalise",
            remedy="its own labels",
            sick=small,
            cured=small,
            batch=shuffled,
            cured_batch=digits,
            out_of_reach="at the initialisation one label is as good as another",
        ),
        no(
            "frozen by mistake",
            source="PyTorch tutorial, transfer learning: requires_grad of all but the last layer",
            symptom="only the last layer learns",
            remedy="requires_grad",
            sick=partial(frozen_but_last, partial(tower, (784, 8, 8, 10), nn.ReLU)),
            cured=partial(tower, (784, 8, 8, 10), nn.ReLU),
            batch=digits,
            out_of_reach="what is frozen was asked to have no gradient",
        ),
        no(
            "dropout of .95",
            source="NeuraLint (Nikanjam et al., TOSEM 2022), rule on dropout",
            symptom="underfits",
            remedy="dropout of .2",
            sick=partial(digit_tower, 64, 2, nn.ReLU, he, dropout=0.95),
            cured=partial(digit_tower, 64, 2, nn.ReLU, he, dropout=0.2),
            batch=digits,
            out_of_reach="the gradient is noisy, and right on average",
        ),
        no(
            "16-64-64-2 tanh, U(-.05, .05), squared error",
            source=POST.format(34673164),
            symptom="said to be inaccurate",
            remedy="batch norm, cross-entropy",
            sick=partial(tower, (16, 64, 64, 1), nn.Tanh, keras_uniform, dropout=0.5),
            cured=partial(
                tower, (16, 64, 64, 1), nn.Tanh, keras_uniform, norm=nn.BatchNorm1d, dropout=0.5
            ),
            batch=partial(table, 16),
            loss=F.mse_loss,
            cured_loss=F.binary_cross_entropy_with_logits,
            out_of_reach="the original trains, as DeepFD (ICSE 2022) notes",
        ),
    )

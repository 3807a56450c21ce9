"""Faults of single operations: gradients that are cut or flat, and numbers that overflow.

Where a source gives a cause and no network, the network is a small one for digits.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from examples.study.faults.batches import digits, noise, pairs, parabola, pictures, prices
from examples.study.faults.losses import (
    contrastive,
    naive_cross_entropy,
    non_saturating,
    saturating,
    scaled_loss,
)
from examples.study.faults.papers import LU
from examples.study.faults.parts import (
    Apply,
    Codebook,
    Cosine,
    Distance,
    Standardise,
    WithoutGradient,
    adapted,
    digit_tower,
    fault,
    generator,
    he,
    normal,
    straight_through,
    tower,
)
from examples.study.network import Fault

DOCS = "PyTorch documentation, {}"


def cut_faults() -> tuple[Fault, ...]:
    """Graphs without a gradient: cut, flat, or gated by zeros."""
    cut = partial(fault, family="cut gradient", batch=digits)
    bottleneck = partial(tower, (784, 8, 8, 10), nn.ReLU)
    flat = "the derivative is 0 everywhere"
    return (
        cut(
            "adapters with A = B = 0",
            source="microsoft/LoRA issue 167; Lightning-AI/litgpt issue 1229",
            symptom="the adapters never get a gradient",
            remedy="A random, B = 0",
            sick=partial(adapted, nn.init.zeros_),
            cured=partial(adapted, he),
        ),
        cut(
            "detach() in the middle",
            source=DOCS.format("Tensor.detach"),
            symptom="no gradient before it",
            remedy="no detach()",
            sick=partial(bottleneck, middle=partial(Apply, torch.Tensor.detach)),
            cured=bottleneck,
        ),
        cut(
            "an encoder inside torch.no_grad()",
            source=DOCS.format("locally disabling gradient computation"),
            symptom="no gradient for the encoder",
            remedy="no torch.no_grad()",
            sick=lambda: nn.Sequential(
                WithoutGradient(nn.Linear(784, 8), nn.ReLU()), nn.Linear(8, 10)
            ),
            cured=lambda: nn.Sequential(
                nn.Sequential(nn.Linear(784, 8), nn.ReLU()), nn.Linear(8, 10)
            ),
        ),
        cut(
            "sign() as activation",
            source="Bengio et al., Estimating or propagating gradients, 2013",
            symptom=flat,
            remedy="straight-through estimator",
            sick=partial(bottleneck, middle=partial(Apply, torch.sign)),
            cured=partial(bottleneck, middle=partial(Apply, straight_through)),
        ),
        cut(
            "round() of the output",
            source=DOCS.format("torch.round"),
            symptom=flat,
            remedy="no rounding in training",
            sick=partial(tower, (1, 32, 1), nn.Tanh, output=partial(Apply, torch.round)),
            cured=partial(tower, (1, 32, 1), nn.Tanh),
            batch=partial(parabola, scaled=True),
            loss=F.mse_loss,
        ),
        cut(
            "argmax over codes",
            source="van den Oord et al., Neural discrete representation learning, NeurIPS 2017",
            symptom="no gradient for the encoder",
            remedy="the codes weighted by a softmax",
            sick=partial(Codebook, hard=True),
            cured=partial(Codebook, hard=False),
        ),
        cut(
            "output clamped to where it is not",
            source=DOCS.format("torch.clamp"),
            symptom="no gradient outside of the range",
            remedy="no clamp",
            sick=partial(
                tower, (1, 32, 1), nn.ReLU, output=partial(Apply, partial(torch.clamp, min=3.0))
            ),
            cured=partial(tower, (1, 32, 1), nn.ReLU),
            batch=partial(prices, 1.0, 5.0),
            loss=F.mse_loss,
        ),
        cut(
            "a decoder of pixels that ends in ReLU, biases of -1",
            source=LU,
            symptom="the output is 0 and stays so",
            remedy="sigmoid output",
            sick=partial(tower, (784, 32, 784), nn.ReLU, bias=-1.0, output=nn.ReLU),
            cured=partial(tower, (784, 32, 784), nn.ReLU, output=nn.Sigmoid),
            batch=pictures,
            loss=F.mse_loss,
        ),
    )


def numeric_faults() -> tuple[Fault, ...]:
    """NaN, infinities, and factors that no optimizer survives."""
    number = partial(fault, family="numerics", batch=digits)
    small = partial(digit_tower, 64, 2, nn.ReLU)
    return (
        number(
            "loss x 1e-12",
            source="Kingma and Ba, Adam, ICLR 2015: epsilon of 1e-8",
            symptom="gradients below Adam's epsilon",
            remedy="no factor",
            sick=small,
            cured=small,
            loss=partial(scaled_loss, factor=1e-12),
            cured_loss=F.cross_entropy,
        ),
        number(
            "log of pixels",
            source="facebookresearch/habitat-lab issue 2226: NaN gradients",
            symptom="log(0): infinite inputs, NaN",
            remedy="log(1 + x)",
            sick=partial(digit_tower, 64, 2, nn.ReLU, first=partial(Apply, torch.log)),
            cured=partial(digit_tower, 64, 2, nn.ReLU, first=partial(Apply, torch.log1p)),
        ),
        number(
            "log of a softmax in two steps",
            source=DOCS.format("log_softmax"),
            symptom="log(0) where the softmax underflows",
            remedy="log_softmax",
            sick=partial(digit_tower, 128, 1, nn.ReLU, normal(1.0)),
            cured=partial(digit_tower, 128, 1, nn.ReLU, normal(1.0)),
            loss=naive_cross_entropy,
            cured_loss=F.cross_entropy,
        ),
        number(
            "distance of equal embeddings",
            source="Hadsell et al., CVPR 2006; PyTorch's pairwise_distance has eps for it",
            symptom="sqrt(0): finite loss, NaN gradient",
            remedy="sqrt(x + 1e-6)",
            sick=partial(Distance, 0.0),
            cured=partial(Distance, 1e-6),
            batch=pairs,
            loss=contrastive,
        ),
        number(
            "pixels over a standard deviation of 0",
            source="Ioffe and Szegedy, ICML 2015: batch norm has eps for it",
            symptom="0 / 0",
            remedy="epsilon of .1",
            sick=partial(digit_tower, 64, 2, nn.ReLU, first=partial(Standardise, 0.0)),
            cured=partial(digit_tower, 64, 2, nn.ReLU, first=partial(Standardise, 0.1)),
        ),
        number(
            "cosines over a temperature of 1e-8",
            source="Radford et al., CLIP, ICML 2021: the temperature is clipped at .01",
            symptom="a one-hot softmax, huge gradient",
            remedy="temperature of .1",
            sick=partial(Cosine, 1e-8),
            cured=partial(Cosine, 0.1),
        ),
        number(
            "logits x 10^4",
            source="Guo et al., On calibration of modern neural networks, ICML 2017",
            symptom="a one-hot softmax, a loss of thousands",
            remedy="no factor",
            sick=partial(digit_tower, 64, 2, nn.ReLU, output=partial(Apply, _times_ten_thousand)),
            cured=small,
        ),
        number(
            "generator's loss log(1 - D), sure discriminator",
            source="Goodfellow et al., Generative adversarial nets, NeurIPS 2014",
            symptom="the loss saturates",
            remedy="-log D",
            sick=generator,
            cured=generator,
            batch=noise,
            loss=saturating,
            cured_loss=non_saturating,
        ),
        fault(
            "784-128-128-10 ReLU, pixels x 10^4",
            family="unscaled inputs",
            source="LeCun et al., Efficient BackProp, 1998: normalise the inputs",
            symptom="huge outputs",
            remedy="pixels up to 1",
            sick=partial(digit_tower, 128, 2, nn.ReLU, he),
            cured=partial(digit_tower, 128, 2, nn.ReLU, he),
            batch=partial(digits, 1e4),
            cured_batch=digits,
        ),
    )


def _times_ten_thousand(logits: torch.Tensor) -> torch.Tensor:
    return logits * 1e4

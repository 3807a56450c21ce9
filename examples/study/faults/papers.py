"""Faults from papers and books: depth, dead units, attention, recurrence.

Where a source gives a cause and no network, the network is a small one for digits.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from examples.study.faults.batches import digits, memory, tokens
from examples.study.faults.parts import (
    MEASURED,
    Recurrent,
    Tokens,
    Transformer,
    after_step,
    conv_tower,
    digit_tower,
    fault,
    glorot,
    he,
    lecun,
    normal,
    residual_tower,
    small_branch,
    tower,
)
from examples.study.network import Fault

GLOROT = "Glorot and Bengio, AISTATS 2010"
HE = "He et al., ICCV 2015"
LU = "Lu et al., Dying ReLU and initialization, 2019"
SCHOENHOLZ = "Schoenholz et al., Deep information propagation, ICLR 2017"
NOCI = "Noci et al., Signal propagation in transformers, NeurIPS 2022"


def depth_faults() -> tuple[Fault, ...]:
    """Signals that shrink, grow or collapse from layer to layer."""
    deep = partial(fault, family="depth", batch=digits)
    vanishes, explodes = "vanishing gradient", "exploding gradient"
    orthogonal = nn.init.orthogonal_
    ten, twenty, thirty = (partial(digit_tower, 128, n) for n in (10, 20, 30))
    return (
        deep(
            "20 sigmoid layers, Xavier",
            source=GLOROT,
            symptom=vanishes,
            remedy="ReLU, He initialisation",
            sick=partial(digit_tower, 64, 20, nn.Sigmoid, nn.init.xavier_normal_),
            cured=partial(digit_tower, 64, 20, nn.ReLU, he),
        ),
        deep(
            "5 sigmoid layers",
            source=f"{GLOROT}, figure 2",
            symptom="the last layer saturates at 0 and does not recover",
            remedy="tanh, Xavier initialisation",
            sick=partial(digit_tower, 256, 5, nn.Sigmoid),
            cured=partial(digit_tower, 256, 5, nn.Tanh, glorot),
        ),
        deep(
            "20 ReLU layers, PyTorch's weights",
            source=f"{HE}, section 2.2",
            symptom=vanishes,
            remedy="He initialisation",
            sick=partial(twenty, nn.ReLU),
            cured=partial(twenty, nn.ReLU, he),
        ),
        deep(
            "20 convolutions, PyTorch's weights",
            source=f"{HE}, section 2.2",
            symptom=vanishes,
            remedy="He initialisation",
            sick=partial(conv_tower, 20, 16, nn.ReLU, None),
            cured=partial(conv_tower, 20, 16, nn.ReLU, he),
        ),
        deep(
            "30 convolutions, Xavier",
            source=f"{HE}, figure 3",
            symptom="the 30-layer network stalls",
            remedy="He initialisation",
            sick=partial(conv_tower, 30, 16, nn.ReLU, nn.init.xavier_normal_),
            cured=partial(conv_tower, 30, 16, nn.ReLU, he),
        ),
        deep(
            "30 tanh layers, PyTorch's weights",
            source=SCHOENHOLZ,
            symptom="ordered phase: vanishing gradient, equal outputs",
            remedy="orthogonal initialisation",
            sick=partial(thirty, nn.Tanh),
            cured=partial(thirty, nn.Tanh, orthogonal),
        ),
        deep(
            "30 tanh layers, weights of variance 9 / n",
            source=SCHOENHOLZ,
            symptom="chaotic phase: exploding gradient",
            remedy="orthogonal initialisation",
            sick=partial(thirty, nn.Tanh, partial(orthogonal, gain=3.0)),
            cured=partial(thirty, nn.Tanh, orthogonal),
        ),
        deep(
            "10 ReLU layers, N(0, .3)",
            source=f"{HE}, section 2.2",
            symptom=f"{explodes}; Adam hides it, SGD at .005 ends in NaN",
            remedy="He initialisation",
            sick=partial(ten, nn.ReLU, normal(0.3)),
            cured=partial(ten, nn.ReLU, he),
        ),
        deep(
            "12 convolutions, orthogonal x 3",
            source="Saxe et al., ICLR 2014",
            symptom=f"{explodes}; Adam hides it",
            remedy="gain of sqrt(2)",
            sick=partial(conv_tower, 12, 16, nn.ReLU, partial(orthogonal, gain=3.0)),
            cured=partial(conv_tower, 12, 16, nn.ReLU, partial(orthogonal, gain=2**0.5)),
        ),
        deep(
            "50 SELU layers, He",
            source="Klambauer et al., Self-normalizing neural networks, NeurIPS 2017",
            symptom="exploding gradient; Adam hides it, SGD at .005 ends in NaN",
            remedy="LeCun initialisation",
            sick=partial(digit_tower, 128, 50, nn.SELU, he),
            cured=partial(digit_tower, 128, 50, nn.SELU, lecun),
        ),
        deep(
            "100 ReLU layers, batch norm",
            source="Yang et al., A mean field theory of batch normalization, ICLR 2019",
            symptom=explodes,
            remedy="residual connections",
            sick=partial(digit_tower, 64, 100, nn.ReLU, he, norm=nn.BatchNorm1d),
            cured=partial(residual_tower, 50, 64, norm=nn.BatchNorm1d),
        ),
        deep(
            "40 residual blocks without norm",
            source="Zhang et al., Fixup initialization, ICLR 2019",
            symptom=explodes,
            remedy="small weights at the end of each block",
            sick=partial(residual_tower, 40, 64),
            cured=partial(residual_tower, 40, 64, last=small_branch(40)),
        ),
        deep(
            "40 ReLU layers, layer norm, PyTorch's weights",
            source="Daneshmand et al., Batch normalization avoids ranks collapse, NeurIPS 2020",
            symptom="the representations of all inputs become one",
            remedy="residual connections",
            sick=partial(digit_tower, 64, 40, nn.ReLU, norm=nn.LayerNorm),
            cured=partial(residual_tower, 20, 64, norm=nn.LayerNorm),
        ),
    )


def dead_faults() -> tuple[Fault, ...]:
    """Units that are dead or saturated."""
    dead = partial(fault, family="dead or saturated", batch=digits)
    narrow = partial(tower, (784, *[4] * 20, 10))
    small = partial(digit_tower, 64, 2, nn.ReLU, he)
    return (
        dead(
            "5 ReLU layers, biases of -1",
            source=LU,
            symptom="dead units",
            remedy="biases of 0",
            sick=partial(digit_tower, 128, 5, nn.ReLU, he, bias=-1.0),
            cured=partial(digit_tower, 128, 5, nn.ReLU, he),
        ),
        dead(
            "20 ReLU layers of 4",
            source=LU,
            symptom="born dead in about half of the seeds",
            remedy="leaky ReLU, LeCun initialisation",
            sick=partial(narrow, nn.ReLU, he),
            cured=partial(narrow, partial(nn.LeakyReLU, 0.5), lecun),
        ),
        dead(
            "after a step of SGD with rate 100",
            source="Stanford CS231n, neural networks 1: a large learning rate kills ReLUs",
            symptom="dead units and a loss of thousands after one step",
            remedy="rate of 0.03",
            sick=partial(after_step, small, digits, 100.0),
            cured=partial(after_step, small, digits, 0.03),
        ),
        dead(
            "5 tanh layers, N(0, 10)",
            source=GLOROT,
            symptom="97% of the units are saturated",
            remedy="Xavier initialisation",
            sick=partial(digit_tower, 128, 5, nn.Tanh, normal(10.0)),
            cured=partial(digit_tower, 128, 5, nn.Tanh, glorot),
        ),
        dead(
            "5 hard tanh layers, N(0, 1)",
            source="Courbariaux et al., Binarized neural networks, 2016",
            symptom="saturated units have no gradient",
            remedy="Xavier initialisation",
            sick=partial(digit_tower, 128, 5, nn.Hardtanh, normal(1.0)),
            cured=partial(digit_tower, 128, 5, nn.Hardtanh, glorot),
        ),
        dead(
            "a saturated sigmoid and squared error",
            source="Nielsen, Neural networks and deep learning, chapter 3",
            symptom="learning slows down where the output saturates",
            remedy="cross-entropy",
            sick=partial(tower, (784, 30, 1), nn.Sigmoid, bias=12.0, output=nn.Sigmoid),
            cured=partial(tower, (784, 30, 1), nn.Sigmoid, output=nn.Sigmoid),
            batch=partial(_with_target, 0.0),
            loss=F.mse_loss,
            cured_loss=F.binary_cross_entropy,
        ),
        dead(
            "token embeddings of N(0, 100)",
            source="karpathy/nanoGPT, weights of .02 in place of PyTorch's N(0, 1)",
            symptom="saturated tanh",
            remedy="N(0, 1)",
            sick=partial(Tokens, 100.0),
            cured=partial(Tokens, 1.0),
            batch=tokens,
            out_of_reach=MEASURED.format(".005 with SGD", ".008"),
        ),
        dead(
            "batch norm with gamma of 0 and no skip",
            source="Goyal et al., Accurate, large minibatch SGD, 2017: gamma of 0 in blocks",
            symptom="every unit after it is 0",
            remedy="gamma of 1",
            sick=partial(digit_tower, 64, 3, nn.ReLU, norm=partial(_batch_norm, 0.0)),
            cured=partial(digit_tower, 64, 3, nn.ReLU, norm=partial(_batch_norm, 1.0)),
        ),
    )


def _with_target(value: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Digits, all with one target."""
    images, _ = digits()
    return images, torch.full((len(images), 1), value)


def _batch_norm(gamma: float, features: int) -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(features)
    nn.init.constant_(norm.weight, gamma)
    return norm


def attention_faults() -> tuple[Fault, ...]:
    """Transformers without one of their parts, and recurrent cells."""
    reader = partial(fault, family="attention and recurrence", batch=digits)
    rows = partial(Recurrent, 28, 64, 10)
    return (
        reader(
            "24 transformer blocks without layer norm",
            source="Xiong et al., On layer normalization in the transformer, ICML 2020",
            symptom="exploding gradient",
            remedy="layer norm before attention and feed-forward",
            sick=partial(Transformer, 24, norm=False, init=he),
            cured=partial(Transformer, 24, init=glorot),
        ),
        reader(
            "6 transformer blocks without skips",
            source=NOCI,
            symptom="rank collapse: all tokens become one",
            remedy="residual connections",
            sick=partial(Transformer, 6, norm=False, skip=False),
            cured=partial(Transformer, 6),
        ),
        reader(
            "6 layers of attention only, layer norm, no skips",
            source="Dong et al., Attention is not all you need, ICML 2021",
            symptom="rank collapse",
            remedy="residual connections and feed-forward layers",
            sick=partial(Transformer, 6, skip=False, feed_forward=False),
            cured=partial(Transformer, 6),
            out_of_reach=MEASURED.format(".002 with Adam", ".0006"),
        ),
        reader(
            "attention logits x 500",
            source="Vaswani et al., NeurIPS 2017, section 3.2.1; Zhai et al., ICML 2023",
            symptom="one-hot attention: entropy collapse",
            remedy="1 / sqrt(d)",
            sick=partial(Transformer, 4, scale=500.0),
            cured=partial(Transformer, 4),
        ),
        reader(
            "ReLU recurrence x 3 over 28 steps",
            source="Pascanu et al., ICML 2013; Le et al., 2015",
            symptom="exploding gradient through time",
            remedy="identity recurrence",
            sick=partial(rows, "relu", partial(nn.init.orthogonal_, gain=3.0)),
            cured=partial(rows, "relu", nn.init.eye_),
        ),
        reader(
            "tanh recurrence, first of 150 steps to remember",
            source="Bengio et al., Learning long-term dependencies is difficult, 1994",
            symptom="vanishing gradient through time",
            remedy="orthogonal recurrence",
            sick=partial(Recurrent, 4, 64, 4, "tanh"),
            cured=partial(Recurrent, 4, 64, 4, "tanh", nn.init.orthogonal_),
            batch=partial(memory, 150),
        ),
    )

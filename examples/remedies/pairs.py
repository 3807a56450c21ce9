"""Every remedy's pairs: the networks that need it, and the same networks with it."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_value_

from examples.mnist.digits import BATCH, load_digits
from examples.mnist.models import DeepClassifier, DeepConvNet, he
from examples.remedies.pair import (
    DROWNED,
    EXPLODING,
    STILL_EXPLODING,
    VANISHING,
    WILD_STEP,
    Pair,
    Recipe,
    adam,
    sgd,
)
from pytest_gradhealth import built_in_remedies


def l1(model: nn.Module, *, strength: float) -> Tensor:
    """Return `strength` times the sum of the sizes of the weights between hidden layers.

    The first layer's weights are smaller, one for each of 784 pixels, and would be gone before the
    others are level.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)][1:-1]
    return strength * torch.stack([layer.weight.abs().sum() for layer in layers]).sum()


def l2(model: nn.Module, *, strength: float) -> Tensor:
    """Return `strength` times the sum of the squares of all parameters."""
    return strength * torch.stack([p.square().sum() for p in model.parameters()]).sum()


# Initialisations

leaky_he = partial(nn.init.kaiming_normal_, a=0.01, nonlinearity="leaky_relu")
lecun = partial(nn.init.kaiming_normal_, nonlinearity="linear")
small = partial(nn.init.normal_, std=0.01)
large = partial(nn.init.normal_, std=10.0)
xavier = nn.init.xavier_normal_
orthogonal = nn.init.orthogonal_
orthogonal_for_relu = partial(nn.init.orthogonal_, gain=math.sqrt(2))

# Networks: three, ten, twenty and thirty layers

three = partial(DeepClassifier, depth=3, width=64)
ten = partial(DeepClassifier, depth=10, width=64)
ten_wide = partial(DeepClassifier, depth=10, width=128)
twenty = partial(DeepClassifier, depth=20, width=64)
thirty = partial(DeepClassifier, depth=30, width=64)
sixty_blocks = partial(DeepConvNet, blocks=60, width=16)


# Gradient clipping

growing = partial(ten, nn.ReLU, weights=partial(he, gain=1.5))

UNCLIPPED = Recipe("no clipping", growing, sgd(0.1), steps=200)

GRADIENT_CLIPPING = (
    Pair(
        "gradient clipping by norm",
        WILD_STEP,
        UNCLIPPED,
        replace(UNCLIPPED, what="clip_grad_norm_ at 1", clip=1.0),
    ),
    Pair(
        "gradient clipping by value",
        WILD_STEP,
        UNCLIPPED,
        replace(
            UNCLIPPED,
            what="clip_grad_value_ at 0.1",
            clip=partial(clip_grad_value_, clip_value=0.1),
        ),
    ),
)


# Regularisation: the first gradients of large weights would throw them away, so that their steps
# are clipped, with penalty and without.

LARGE_WITHOUT_L1 = Recipe(
    "large weights",
    partial(ten_wide, nn.ReLU, weights=partial(he, gain=3.8)),
    sgd(0.15),
    clip=1.0,
    steps=800,
)
STRONG_L1 = Recipe(
    "L1 of 0.3",
    partial(ten_wide, nn.ReLU, weights=he),
    sgd(0.05),
    penalty=partial(l1, strength=0.3),
    steps=200,
)

L1_REGULARISATION = (
    Pair(
        "L1 penalty",
        STILL_EXPLODING,
        LARGE_WITHOUT_L1,
        replace(
            LARGE_WITHOUT_L1, what="large weights, L1 0.005", penalty=partial(l1, strength=0.005)
        ),
    ),
    Pair(
        "less L1 penalty",
        DROWNED,
        STRONG_L1,
        replace(STRONG_L1, what="L1 of 0.0001", penalty=partial(l1, strength=1e-4)),
    ),
)

LARGE_WITHOUT_L2 = Recipe(
    "large weights",
    partial(ten, nn.ReLU, weights=partial(he, gain=4.3)),
    sgd(0.1),
    clip=1.0,
    steps=600,
)
STRONG_L2 = Recipe(
    "L2 of 1",
    partial(ten, nn.ReLU, weights=he),
    sgd(0.05),
    penalty=partial(l2, strength=1.0),
    steps=300,
)

L2_REGULARISATION = (
    Pair(
        "L2 penalty",
        STILL_EXPLODING,
        LARGE_WITHOUT_L2,
        replace(
            LARGE_WITHOUT_L2, what="large weights, L2 0.01", penalty=partial(l2, strength=0.01)
        ),
    ),
    Pair(
        "weight decay",
        STILL_EXPLODING,
        LARGE_WITHOUT_L2,
        replace(
            LARGE_WITHOUT_L2,
            what="large weights, weight decay 0.02",
            optimizer=sgd(0.1, weight_decay=0.02),
        ),
    ),
    Pair(
        "less L2 penalty",
        DROWNED,
        STRONG_L2,
        replace(STRONG_L2, what="L2 of 0.0001", penalty=partial(l2, strength=1e-4)),
    ),
)


# Residual connections

WITHOUT_SHORTCUTS = Recipe(
    "60 blocks of convolutions", partial(sixty_blocks, shortcuts=False), adam(2e-3), steps=60
)

RESIDUAL_CONNECTIONS = (
    Pair(
        "residual connections",
        EXPLODING,
        WITHOUT_SHORTCUTS,
        Recipe("60 residual blocks", partial(sixty_blocks, shortcuts=True), adam(2e-3), steps=60),
    ),
)


# Batch normalisation

WITHOUT_NORM = Recipe("20 ReLUs", partial(twenty, nn.ReLU), sgd(0.05), steps=200)

BATCH_NORMALISATION = (
    Pair(
        "batch normalisation",
        VANISHING,
        WITHOUT_NORM,
        Recipe(
            "20 ReLUs, batch norm",
            partial(twenty, nn.ReLU, batch_norm=True),
            sgd(0.05),
            steps=200,
        ),
    ),
)


# Standardised inputs


class Shifted(nn.Module):
    """Data as a sensor has them: far from zero."""

    def forward(self, images: Tensor) -> Tensor:
        """Return pixels of 10,000 to 10,001."""
        return images + 10_000


def standardised() -> nn.Module:
    """The network of three tanhs, with what the remedy puts in front of it."""
    remedy = {remedy.name: remedy for remedy in built_in_remedies()}["standardised inputs"]
    shifted, images = Shifted(), load_digits()[0][:BATCH]
    return nn.Sequential(shifted, remedy.apply(three(nn.Tanh), shifted(images)))


FAR_OFF = Recipe(
    "3 tanhs, pixels of 10,000", lambda: nn.Sequential(Shifted(), three(nn.Tanh)), adam(1e-3)
)

STANDARDISED_INPUTS = (
    Pair(
        "standardised inputs",
        VANISHING,
        FAR_OFF,
        Recipe("3 tanhs, standardised pixels", standardised, adam(1e-3)),
    ),
)


# Weight initialisation

heavy_sgd = sgd(0.02, momentum=0.9)

HE = Recipe("10 ReLUs, He's weights", partial(ten, nn.ReLU, weights=he), adam(1e-3))
SMALL = Recipe("10 ReLUs, weights of 0.01", partial(ten, nn.ReLU, weights=small), adam(1e-3))
LARGE = Recipe("10 ReLUs, weights of 10", partial(ten, nn.ReLU, weights=large), adam(1e-3))
SMALL_TANH = Recipe("10 tanhs, weights of 0.01", partial(ten, nn.Tanh, weights=small), heavy_sgd)
DEEP_TANH = Recipe("30 tanhs, PyTorch's weights", partial(thirty, nn.Tanh), adam(5e-4))

WEIGHT_INITIALISATION = (
    Pair("Kaiming initialisation", VANISHING, SMALL, HE),
    Pair("Kaiming initialisation", EXPLODING, LARGE, HE),
    Pair(
        "orthogonal initialisation",
        VANISHING,
        SMALL,
        Recipe(
            "10 ReLUs, orthogonal weights",
            partial(ten, nn.ReLU, weights=orthogonal_for_relu),
            adam(1e-3),
        ),
    ),
    Pair(
        "Xavier initialisation",
        VANISHING,
        SMALL_TANH,
        Recipe("10 tanhs, Xavier's weights", partial(ten, nn.Tanh, weights=xavier), heavy_sgd),
    ),
    Pair(
        "orthogonal initialisation",
        VANISHING,
        DEEP_TANH,
        Recipe(
            "30 tanhs, orthogonal weights",
            partial(thirty, nn.Tanh, weights=orthogonal),
            adam(5e-4),
        ),
    ),
)


# Activation functions

SIGMOID = Recipe("10 sigmoids", partial(ten, nn.Sigmoid), adam(1e-3))
TANH = Recipe("30 tanhs", partial(thirty, nn.Tanh), adam(5e-4))

ACTIVATION_FUNCTIONS = (
    Pair(
        "ReLU",
        VANISHING,
        SIGMOID,
        Recipe("10 ReLUs", partial(ten, nn.ReLU, weights=he), adam(1e-3)),
    ),
    Pair(
        "LeakyReLU",
        VANISHING,
        SIGMOID,
        Recipe("10 LeakyReLUs", partial(ten, nn.LeakyReLU, weights=leaky_he), adam(1e-3)),
    ),
    Pair(
        "GELU",
        VANISHING,
        SIGMOID,
        Recipe("10 GELUs", partial(ten, nn.GELU, weights=he), adam(1e-3)),
    ),
    Pair(
        "SELU",
        VANISHING,
        SIGMOID,
        Recipe("10 SELUs", partial(ten, nn.SELU, weights=lecun), adam(1e-3)),
    ),
    Pair(
        "SELU",
        VANISHING,
        TANH,
        Recipe("30 SELUs", partial(thirty, nn.SELU, weights=lecun), adam(5e-4)),
    ),
)

#: All of them, in the order of the table.
PAIRS: tuple[Pair, ...] = (
    *GRADIENT_CLIPPING,
    *L1_REGULARISATION,
    *L2_REGULARISATION,
    *RESIDUAL_CONNECTIONS,
    *BATCH_NORMALISATION,
    *STANDARDISED_INPUTS,
    *WEIGHT_INITIALISATION,
    *ACTIVATION_FUNCTIONS,
)

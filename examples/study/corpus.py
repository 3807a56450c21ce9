"""Random networks for MNIST digits: every choice drawn from one number."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

#: Networks in the study.
SIZE = 600
#: Share of them that are convolutional.
CONVOLUTIONAL = 0.25

Kind = Literal["mlp", "conv"]
Norm = Literal["none", "batch", "layer"]
Half = Literal["calibration", "test"]

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "hardtanh": nn.Hardtanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}
#: Half of the networks use one of these: what most people write.
COMMON_ACTIVATIONS = ("relu", "gelu", "tanh", "sigmoid")

normal = nn.init.normal_
INITIALISATIONS: Mapping[str, Callable[[Tensor], object] | None] = {
    "pytorch": None,
    "xavier normal": nn.init.xavier_normal_,
    "xavier uniform": nn.init.xavier_uniform_,
    "he fan-in": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "he fan-out": partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu"),
    "lecun": partial(nn.init.kaiming_normal_, nonlinearity="linear"),
    "orthogonal": nn.init.orthogonal_,
    "orthogonal x1.5": partial(nn.init.orthogonal_, gain=1.5),
    "truncated .02": partial(nn.init.trunc_normal_, std=0.02),
    "normal .05": partial(normal, std=0.05),
    "normal .1": partial(normal, std=0.1),
    "normal .3": partial(normal, std=0.3),
    "normal 1": partial(normal, std=1.0),
    "uniform .05": partial(nn.init.uniform_, a=-0.05, b=0.05),
    "uniform .5": partial(nn.init.uniform_, a=-0.5, b=0.5),
}
#: Half of the networks use one of these.
COMMON_INITIALISATIONS = ("pytorch", "xavier uniform", "he fan-in")

#: What the pixels, from 0 to 1, become.
SCALINGS: Mapping[str, tuple[float, float]] = {
    "0..1": (1.0, 0.0),
    "standardised": (1 / 0.3081, -0.1307 / 0.3081),
    "0..255": (255.0, 0.0),
    "0..0.01": (0.01, 0.0),
}


@dataclass(frozen=True)
class Recipe:
    """The choices behind one random network."""

    number: int
    kind: Kind
    depth: int
    width: int
    activation: str
    initialisation: str
    norm: Norm
    residual: bool
    scaling: str

    @property
    def half(self) -> Half:
        """Thresholds are chosen on even numbers and tested on odd ones."""
        return "test" if self.number % 2 else "calibration"

    @property
    def name(self) -> str:
        """The choices in words."""
        shape = f"{self.kind} {self.depth} x {self.width}"
        extras = [self.activation, self.initialisation, f"inputs {self.scaling}"]
        extras += [] if self.norm == "none" else [f"{self.norm} norm"]
        extras += ["residual"] if self.residual else []
        return ", ".join([shape, *extras])


def recipe(number: int) -> Recipe:
    """Draw the choices of one network; the same for the same number, always."""
    draw = random.Random(f"network {number}")
    kind: Kind = "conv" if draw.random() < CONVOLUTIONAL else "mlp"
    depth = round(2 * 25 ** draw.random())
    common = draw.random() < 0.5
    activations = COMMON_ACTIVATIONS if common else tuple(ACTIVATIONS)
    usual = draw.random() < 0.5
    initialisations = COMMON_INITIALISATIONS if usual else tuple(INITIALISATIONS)
    norms: tuple[Norm, ...] = ("none", "batch", "layer")
    return Recipe(
        number=number,
        kind=kind,
        depth=depth,
        width=draw.choice((8, 16) if kind == "conv" else (16, 32, 64, 128)),
        activation=draw.choice(activations),
        initialisation=draw.choice(initialisations),
        norm=draw.choices(norms, weights=(6, 2, 2))[0],
        residual=draw.random() < 0.3,
        scaling=draw.choices(tuple(SCALINGS), weights=(3, 4, 2, 1))[0],
    )


class Residual(nn.Sequential):
    """x + f(x)."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the sum of what comes in and what the layers make of it."""
        outputs: Tensor = inputs + super().forward(inputs)  # type: ignore[no-untyped-call]
        return outputs


class RandomNet(nn.Module):
    """The network of a recipe, for images of shape (batch, 784)."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        layers = [self._layer(position) for position in range(recipe.depth)]
        self.hidden = nn.Sequential(*layers)
        self.head = nn.Linear(recipe.width, 10)
        initialise = INITIALISATIONS[recipe.initialisation]
        if initialise is not None:
            for module in self.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    initialise(module.weight)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of shape (batch, 10)."""
        factor, offset = SCALINGS[self.recipe.scaling]
        x = images * factor + offset
        if self.recipe.kind == "mlp":
            logits: Tensor = self.head(self.hidden(x))
        else:
            small = avg_pool2d(x.reshape(-1, 1, 28, 28), 2)
            logits = self.head(self.hidden(small).mean((2, 3)))
        return logits

    def _layer(self, position: int) -> nn.Module:
        """A weight, a norm, an activation; the second convolution halves the image."""
        recipe, width = self.recipe, self.recipe.width
        if recipe.kind == "mlp":
            weight: nn.Module = nn.Linear(width if position else 784, width)
        else:
            stride = 2 if position == 1 else 1
            weight = nn.Conv2d(width if position else 1, width, 3, stride, padding=1)
        parts = [weight, *_norm(recipe), ACTIVATIONS[recipe.activation]()]
        same_shape = position > (0 if recipe.kind == "mlp" else 1)
        return (Residual if recipe.residual and same_shape else nn.Sequential)(*parts)


def _norm(recipe: Recipe) -> list[nn.Module]:
    if recipe.norm == "none":
        return []
    if recipe.kind == "mlp":
        batch = recipe.norm == "batch"
        return [nn.BatchNorm1d(recipe.width) if batch else nn.LayerNorm(recipe.width)]
    return [
        nn.BatchNorm2d(recipe.width) if recipe.norm == "batch" else nn.GroupNorm(1, recipe.width)
    ]


def build(recipe: Recipe) -> RandomNet:
    """Build a network with the weights that its number stands for."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.number)
        return RandomNet(recipe)

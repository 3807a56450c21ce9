"""What the known faults are made of: initialisations, layers, builders."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.study.corpus import Residual
from examples.study.network import Batch, Fault, Network

Activation = Callable[[], nn.Module]
Loss = Callable[[Tensor, Tensor], Tensor]
Initialise = Callable[[Tensor], object]
#: From features to a norm of them.
Norm = Callable[[int], nn.Module]

he: Initialise = partial(nn.init.kaiming_normal_, nonlinearity="relu")
he_uniform: Initialise = partial(nn.init.kaiming_uniform_, nonlinearity="relu")
lecun: Initialise = partial(nn.init.kaiming_normal_, nonlinearity="linear")
glorot: Initialise = nn.init.xavier_uniform_
#: Keras's "uniform" and "normal".
keras_uniform: Initialise = partial(nn.init.uniform_, a=-0.05, b=0.05)
keras_normal: Initialise = partial(nn.init.normal_, std=0.05)


def normal(std: float) -> Initialise:
    return partial(nn.init.normal_, std=std)


def constant(value: float) -> Initialise:
    return partial(nn.init.constant_, val=value)


#: Why a network that was described as sick is not counted: the losses of both, after 200 steps.
MEASURED = "rebuilt, it fits its batch like the cured one: a loss of {}, against {}"


class Apply(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(inputs)


class WithoutGradient(nn.Sequential):
    """Layers inside torch.no_grad()."""

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            outputs: Tensor = super().forward(inputs)  # type: ignore[no-untyped-call]
        return outputs


class Standardise(nn.Module):
    """Features over their standard deviation in the batch."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs - inputs.mean(0)) / (inputs.std(0) + self.eps)


exponential = partial(Apply, torch.exp)
softmax = partial(nn.Softmax, dim=-1)


def initialise(model: nn.Module, weight: Initialise | None, bias: float | None = None) -> None:
    """Set the weights and biases of linear layers and convolutions; None is PyTorch's default."""
    for module in model.modules():
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        if weight is not None:
            weight(module.weight)
        if module.bias is not None and (weight is not None or bias is not None):
            nn.init.constant_(module.bias, bias or 0.0)


def tower(
    widths: Sequence[int],
    activation: Activation,
    init: Initialise | None = None,
    *,
    bias: float | None = None,
    norm: Norm | None = None,
    dropout: float = 0.0,
    first: Activation | None = None,
    middle: Activation | None = None,
    output: Activation | None = None,
) -> nn.Sequential:
    """Linear layers with activations between them, and what the fault puts in.

    `first` comes before the first layer, `middle` after half of the hidden ones, `output` after
    the last layer.
    """
    layers: list[nn.Module] = [] if first is None else [first()]
    hidden = len(widths) - 2
    for number, (fan_in, fan_out) in enumerate(pairwise(widths[:-1]), start=1):
        layers += [nn.Linear(fan_in, fan_out)]
        layers += [] if norm is None else [norm(fan_out)]
        layers += [activation()]
        layers += [nn.Dropout(dropout)] if dropout else []
        layers += [middle()] if middle is not None and number == (hidden + 1) // 2 else []
    layers += [nn.Linear(widths[-2], widths[-1])]
    layers += [] if output is None else [output()]
    model = nn.Sequential(*layers)
    initialise(model, init, bias)
    return model


def digit_tower(
    width: int, depth: int, activation: Activation, init: Initialise | None = None, **rest: object
) -> nn.Sequential:
    """A tower for images of 784 pixels and ten classes."""
    return tower((784, *[width] * depth, 10), activation, init, **rest)  # type: ignore[arg-type]


def lenet(
    activation: Activation,
    init: Initialise | None,
    extra: int,
    *,
    norm: bool = False,
) -> nn.Sequential:
    """AutoTrainer's LeNet: two convolutions, 120 units, then `extra` layers of 84."""
    dense: Norm | None = nn.BatchNorm1d if norm else None
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 28, 28))]
    for channels, filters in ((1, 6), (6, 16)):
        layers += [nn.Conv2d(channels, filters, 5)]
        layers += [nn.BatchNorm2d(filters)] if norm else []
        layers += [activation(), nn.MaxPool2d(2)]
    layers += [nn.Flatten(), tower((256, 120, *[84] * extra, 10), activation, norm=dense)]
    model = nn.Sequential(*layers)
    initialise(model, init)
    return model


def wide_lenet(init: Initialise) -> nn.Sequential:
    """AutoTrainer's tmp_lenet5: 32 and 64 filters, 16 layers of 64, one of 32."""
    model = nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        *(nn.Conv2d(1, 32, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 5), nn.ReLU(), nn.Flatten()),
        tower((4096, *[64] * 16, 32, 10), nn.ReLU),
    )
    initialise(model, init)
    return model


def conv_tower(
    depth: int, channels: int, activation: Activation, init: Initialise | None
) -> nn.Sequential:
    """Convolutions of 3 x 3 on 14 x 14, then the mean over the image."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 28, 28)), nn.AvgPool2d(2)]
    for number in range(depth):
        layers += [nn.Conv2d(channels if number else 1, channels, 3, padding=1), activation()]
    model = nn.Sequential(*layers, nn.AvgPool2d(7), nn.Flatten(), nn.Linear(4 * channels, 10))
    initialise(model, init)
    return model


def residual_tower(
    blocks: int,
    width: int,
    *,
    norm: Norm | None = None,
    last: Initialise = he,
) -> nn.Sequential:
    """Blocks of x + V relu(W x); `last` sets V, `norm` comes before W."""
    body = []
    for _ in range(blocks):
        inner, outer = nn.Linear(width, width), nn.Linear(width, width)
        he(inner.weight)
        last(outer.weight)
        before = [] if norm is None else [norm(width)]
        body += [Residual(*before, inner, nn.ReLU(), outer)]
    return nn.Sequential(nn.Linear(784, width), *body, nn.ReLU(), nn.Linear(width, 10))


class Attention(nn.Module):
    """Self-attention of four heads; `scale` multiplies the logits."""

    def __init__(self, width: int, scale: float | None) -> None:
        super().__init__()
        self.scale = scale
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        outputs: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return outputs


class Transformer(nn.Module):
    """An encoder that reads a digit row by row."""

    def __init__(
        self,
        depth: int,
        *,
        norm: bool = True,
        skip: bool = True,
        scale: float | None = None,
        feed_forward: bool = True,
        width: int = 32,
        init: Initialise = glorot,
    ) -> None:
        super().__init__()
        wrap = Residual if skip else nn.Sequential
        layer_norm: Activation = partial(nn.LayerNorm, width) if norm else nn.Identity
        blocks: list[nn.Module] = []
        for _ in range(depth):
            blocks += [wrap(layer_norm(), Attention(width, scale))]
            wider, narrower = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            if feed_forward:
                blocks += [wrap(layer_norm(), wider, nn.ReLU(), narrower)]
        self.embed = nn.Linear(28, width)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, 10)
        initialise(self, init)
        self.position = nn.Parameter(0.1 * torch.randn(28, width))

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images.unflatten(1, (28, 28))) + self.position  # type: ignore[no-untyped-call]
        outputs: Tensor = self.head(self.blocks(x).mean(1))
        return outputs


class Recurrent(nn.Module):
    """A vanilla recurrent cell, unrolled; the last state is read out."""

    def __init__(
        self,
        features: int,
        width: int,
        classes: int,
        nonlinearity: str,
        init: Initialise | None = None,
    ) -> None:
        super().__init__()
        self.cell = nn.RNNCell(features, width, nonlinearity=nonlinearity)
        self.head = nn.Linear(width, classes)
        self.features = features
        if init is not None:
            init(self.cell.weight_hh)
            nn.init.zeros_(self.cell.bias_hh)
            nn.init.zeros_(self.cell.bias_ih)

    def forward(self, inputs: Tensor) -> Tensor:
        steps = inputs.unflatten(1, (-1, self.features)).unbind(1)  # type: ignore[no-untyped-call]
        state = inputs.new_zeros(len(inputs), self.cell.hidden_size)
        for step in steps:
            state = self.cell(step, state)
        outputs: Tensor = self.head(state)
        return outputs


class LowRank(nn.Module):
    """A frozen layer and an adapter of rank 8 beside it."""

    def __init__(self, fan_in: int, fan_out: int, a: Initialise, b: Initialise) -> None:
        super().__init__()
        self.base = nn.Linear(fan_in, fan_out).requires_grad_(False)
        self.a = nn.Parameter(torch.empty(8, fan_in))
        self.b = nn.Parameter(torch.empty(fan_out, 8))
        a(self.a)
        b(self.b)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.base(inputs) + inputs @ self.a.T @ self.b.T
        return outputs


def adapted(a: Initialise, b: Initialise = nn.init.zeros_) -> nn.Sequential:
    """A frozen tower with an adapter on each layer."""
    widths = ((784, 128), (128, 10))
    inner, outer = (LowRank(fan_in, fan_out, a, b) for fan_in, fan_out in widths)
    return nn.Sequential(inner, nn.ReLU(), outer)


class Distance(nn.Module):
    """How far apart two images are embedded: inputs of shape (batch, 2, 784)."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.embed = tower((784, 64, 16), nn.ReLU)
        self.eps = eps

    def forward(self, pairs: Tensor) -> Tensor:
        one, other = self.embed(pairs[:, 0]), self.embed(pairs[:, 1])
        return torch.sqrt((one - other).square().sum(1) + self.eps)


class Cosine(nn.Module):
    """Cosines with the classes' directions, over a temperature."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.embed = tower((784, 64, 32), nn.ReLU)
        self.classes = nn.Parameter(torch.randn(10, 32))
        self.temperature = temperature

    def forward(self, images: Tensor) -> Tensor:
        directions = F.normalize(self.classes, dim=1)
        return F.normalize(self.embed(images), dim=1) @ directions.T / self.temperature


class Tokens(nn.Module):
    """The mean of embedded tokens, read by a tanh tower."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        nn.init.normal_(self.embed.weight, std=std)
        self.body = tower((16, 64, 64, 10), nn.Tanh)

    def forward(self, tokens: Tensor) -> Tensor:
        outputs: Tensor = self.body(self.embed(tokens).mean(1))
        return outputs


class Codebook(nn.Module):
    """An encoder that picks one of 32 codes, and a head that reads the code."""

    def __init__(self, *, hard: bool) -> None:
        super().__init__()
        self.encoder = tower((784, 64, 32), nn.ReLU)
        self.codes = nn.Embedding(32, 16)
        self.head = nn.Linear(16, 10)
        self.hard = hard

    def forward(self, images: Tensor) -> Tensor:
        scores = self.encoder(images)
        code = self.codes(scores.argmax(1)) if self.hard else scores.softmax(1) @ self.codes.weight
        outputs: Tensor = self.head(code)
        return outputs


def generator(confidence: float = 30.0) -> nn.Sequential:
    """A generator before a frozen discriminator that is sure to see a fake."""
    judge = tower((784, 64, 1), nn.LeakyReLU)
    with torch.no_grad():
        judge[-1].bias.fill_(-confidence)  # type: ignore[operator]
    return nn.Sequential(tower((16, 64, 784), nn.ReLU), judge.requires_grad_(False))


def after_step(
    build: Callable[[], nn.Module], batch: Callable[[], Batch], rate: float
) -> nn.Module:
    """Return a classifier after one step of SGD."""
    model = build()
    inputs, labels = batch()
    F.cross_entropy(model(inputs), labels).backward()  # type: ignore[no-untyped-call]
    torch.optim.SGD(model.parameters(), lr=rate).step()
    model.zero_grad()
    return model


def frozen_but_last(build: Callable[[], nn.Sequential]) -> nn.Sequential:
    """Freeze all layers but the last."""
    model = build()
    model[:-1].requires_grad_(False)
    return model


def straight_through(values: Tensor) -> Tensor:
    """Return the signs, with the gradient of the identity."""
    return values + (values.sign() - values).detach()


#: The weights of a deep residual network that stay small together.
def small_branch(blocks: int) -> Initialise:
    return normal(1e-2 / math.sqrt(blocks))


def fault(
    name: str,
    family: str,
    source: str,
    symptom: str,
    remedy: str,
    *,
    sick: Callable[[], nn.Module],
    cured: Callable[[], nn.Module],
    batch: Callable[[], Batch],
    loss: Loss = F.cross_entropy,
    cured_batch: Callable[[], Batch] | None = None,
    cured_loss: Loss | None = None,
    out_of_reach: str = "",
) -> Fault:
    """Return a fault whose cured network has the sick one's batch and loss, or others."""
    return Fault(
        Network(name, family, sick, batch, loss, source),
        Network(f"{name}, cured", family, cured, cured_batch or batch, cured_loss or loss, source),
        symptom,
        remedy,
        out_of_reach,
    )

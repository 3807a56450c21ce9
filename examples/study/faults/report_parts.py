"""Networks rebuilt from public reports, small; each takes what is wrong with it as an argument."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.study.faults.parts import Activation, tower


class Field(nn.Module):
    """A radiance field: (rays, samples, 3) to colours. What it draws first is empty space."""

    def __init__(self, density: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.trunk = tower((27, 64, 64, 64), nn.ReLU)
        self.sigma, self.colour = nn.Linear(64, 1), nn.Linear(64, 3)
        nn.init.constant_(self.sigma.bias, -2.0)
        self.density = density

    def forward(self, points: Tensor) -> Tensor:
        bands = [points]
        for k in range(4):
            bands += [torch.sin(2**k * points), torch.cos(2**k * points)]
        hidden = F.relu(self.trunk(torch.cat(bands, -1)))
        alpha = 1 - torch.exp(-self.density(self.sigma(hidden)) / 10)
        through = torch.cumprod(1 - alpha + 1e-10, 1).roll(1, 1)
        weights = alpha * torch.cat([torch.ones_like(through[:, :1]), through[:, 1:]], 1)
        colours: Tensor = (weights * self.colour(hidden).sigmoid()).sum(1)
        return colours + (1 - weights.sum(1))


class Experts(nn.Module):
    """Four experts, of which a gate picks one."""

    def __init__(self, *, softmax_first: bool) -> None:
        super().__init__()
        self.embed, self.gate = nn.Linear(784, 32), nn.Linear(32, 4, bias=False)
        self.experts = nn.ModuleList(tower((32, 64, 32), nn.ReLU) for _ in range(4))
        self.head = nn.Linear(32, 10)
        self.softmax_first = softmax_first

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.embed(images))
        scores = self.gate(x)
        if self.softmax_first:
            top, index = scores.softmax(-1).topk(1, -1)
        else:
            top, index = scores.topk(1, -1)
            top = top.softmax(-1)
        answers = torch.stack([expert(x) for expert in self.experts], 1)
        picked = answers.gather(1, index[..., None].expand(-1, 1, 32))[:, 0]
        outputs: Tensor = self.head(x + top * picked)
        return outputs


class Squashed(nn.Module):
    """A policy: the log-probability of the action that it draws, through a tanh."""

    def __init__(self, *, stable: bool) -> None:
        super().__init__()
        self.body = tower((8, 64, 64, 8), nn.ReLU)
        self.stable = stable

    def forward(self, states: Tensor) -> Tensor:
        mean, spread = self.body(states).chunk(2, -1)
        u = mean + spread.exp() * torch.randn_like(mean)
        if self.stable:
            squash = 2 * (math.log(2) - u - F.softplus(-2 * u))
        else:
            squash = torch.log(1 - u.tanh().square())
        normal = -0.5 * ((u - mean) / spread.exp()).square() - spread
        outputs: Tensor = (normal - squash).sum(-1)
        return outputs


class Slices(nn.Module):
    """Messages from row to row of a feature map, and back."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        narrow = nn.AvgPool2d((1, 4))
        self.stem = nn.Sequential(nn.Unflatten(1, (1, 28, 28)), narrow, nn.Conv2d(1, 8, 1))
        self.passes = nn.ModuleList(
            nn.Conv2d(8, 8, (1, 3), padding=(0, 1), bias=False) for _ in range(4)
        )
        for weight in self.passes.parameters():
            nn.init.normal_(weight, std=gain * math.sqrt(2 / 24))
        self.head = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.stem(images))
        for conv in self.passes:
            rows = list(torch.split(x, 1, 2))
            for i in range(1, len(rows)):
                rows[i] = rows[i] + F.relu(conv(rows[i - 1]))
            x = torch.cat(rows[::-1], 2)
        outputs: Tensor = self.head(x.mean((2, 3)))
        return outputs


class Spike(torch.autograd.Function):
    """A step, with a surrogate for its slope: a rectangle, or an arctan."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, wide: bool) -> Tensor:
        ctx.save_for_backward(u)
        ctx.wide = wide
        return (u > 0).float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (u,) = ctx.saved_tensors
        slope = 1 / (1 + (math.pi * u).square()) if ctx.wide else (u.abs() < 0.5).float()
        return grad * slope, None


class Spiking(nn.Module):
    """Three layers of leaky neurons, whose input is the brightness of a digit over 12 steps."""

    def __init__(self, *, wide: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(784, 64), nn.Linear(64, 64), nn.Linear(64, 64)])
        self.head = nn.Linear(64, 10)
        self.wide = wide

    def forward(self, images: Tensor) -> Tensor:
        x = images.expand(12, -1, -1) * 0.5
        for layer in self.layers:
            potential, spikes = x.new_zeros(len(images), 64), []
            for current in layer(x):
                potential = potential + (current - potential) / 4
                spike = Spike.apply(potential - 1, self.wide)
                potential = potential * (1 - spike.detach())
                spikes.append(spike)
            x = torch.stack(spikes)
        outputs: Tensor = self.head(x.mean(0))
        return outputs


class Autoencoder(nn.Module):
    """A variational autoencoder of tables: what it returns, mean and log-variance."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = tower((12, 64, 64, 8), nn.ReLU)
        self.decoder = tower((4, 64, 12), nn.ReLU)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, spread = self.encoder(rows).chunk(2, -1)
        drawn = mean + torch.exp(0.5 * spread) * torch.randn_like(mean)
        return self.decoder(drawn), mean, spread


class Detector(nn.Module):
    """Scores of classes, and of there being anything, put together."""

    def __init__(self, *, clamped_first: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Flatten()
        )
        self.classes, self.anything = nn.Linear(16 * 196, 10), nn.Linear(16 * 196, 1)
        self.clamped_first = clamped_first

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        scores, anything = self.classes(x), self.anything(x)
        most = 1e8
        if self.clamped_first:
            total = sum(s.clamp(max=math.log(most)).exp() for s in (scores, anything))
        else:
            total = sum(s.exp().clamp(max=most) for s in (scores, anything))
        return scores + anything - torch.log(1 + total)  # type: ignore[no-any-return]


class Normalised(nn.Module):
    """A digit's rows over their size, or their standard deviation; `how` divides."""

    def __init__(self, how: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(28, 32, bias=False), nn.Linear(32, 10)
        self.how = how

    def forward(self, images: Tensor) -> Tensor:
        rows = self.embed(images.unflatten(1, (28, 28)))  # type: ignore[no-untyped-call]
        outputs: Tensor = self.head(self.how(rows).mean(1))
        return outputs


class Padded(nn.Module):
    """An encoder of sequences, some of which are nothing but padding."""

    def __init__(self, *, keep_first: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 10)
        self.keep_first = keep_first

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = tokens == 0
        if self.keep_first:
            hidden = hidden & (torch.arange(tokens.shape[1]) > 0)
        x = self.encoder(self.embed(tokens), src_key_padding_mask=hidden)
        outputs: Tensor = self.head(x.mean(1))
        return outputs


class Listed(nn.Module):
    """Hidden layers in a list: of Python, or of torch."""

    def __init__(self, kind: Callable[[list[nn.Module]], Any]) -> None:
        super().__init__()
        self.hidden = kind([nn.Linear(784, 64), nn.Linear(64, 64)])
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for layer in self.hidden:
            x = F.relu(layer(x))
        outputs: Tensor = self.head(x)
        return outputs


class Groups(nn.Module):
    """Means over groups of pixels, some of which have none; `divide` is what is done then."""

    def __init__(self, divide: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(28, 16), nn.Linear(16, 10)
        self.divide = divide

    def forward(self, images: Tensor) -> Tensor:
        rows = images.unflatten(1, (28, 28))  # type: ignore[no-untyped-call]
        seen = (rows.amax(-1, keepdim=True) > 0.5).float()
        seen[:4] = 0.0
        outputs: Tensor = self.head(self.divide((self.embed(rows) * seen).sum(1), seen.sum(1)))
        return outputs


def over_norm(x: Tensor) -> Tensor:
    return x / (x.square().sum(-1, keepdim=True).sqrt() + 1e-8)


def over_safe_norm(x: Tensor) -> Tensor:
    return x / (x.square().sum(-1, keepdim=True) + 1e-8).sqrt()


def over_std(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5)


def over_safe_std(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-5).sqrt()


def replaced(total: Tensor, count: Tensor) -> Tensor:
    return torch.where(count > 0, total / count, 0.0)


def divided(total: Tensor, count: Tensor) -> Tensor:
    return total / torch.where(count > 0, count, 1.0)


def biased_head(counts: list[int]) -> nn.Sequential:
    """A classifier whose last bias is the logarithm of how often each class was counted."""
    model = tower((784, 64, 10), nn.ReLU)
    with torch.no_grad():
        model[-1].bias.copy_(torch.tensor(counts).log())  # type: ignore[operator]
    return model


def pictures_of(std: float, activation: Activation = nn.ReLU) -> nn.Sequential:
    """A generator of digits from digits: six convolutions with weights of N(0, std)."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 28, 28)), nn.AvgPool2d(2)]
    for number in range(6):
        layers += [nn.Conv2d(16 if number else 1, 16, 3, padding=1), activation()]
    model = nn.Sequential(*layers, nn.Conv2d(16, 4, 1), nn.PixelShuffle(2), nn.Flatten())
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=std)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return model


def policy() -> nn.Sequential:
    """Scores of the nodes of a map by where they are and what: (batch, nodes, 4) to (.., nodes)."""
    body = tower((4, 32, 32, 32, 1), nn.Tanh)
    return nn.Sequential(body, nn.Flatten())


def language_head(std: float) -> nn.Sequential:
    """The next word of four, by a head with weights of N(0, std)."""
    model = nn.Sequential(
        nn.Embedding(500, 64), nn.Flatten(), nn.LayerNorm(256), nn.Linear(256, 500, bias=False)
    )
    nn.init.normal_(model[-1].weight, std=std)  # type: ignore[arg-type]
    return model

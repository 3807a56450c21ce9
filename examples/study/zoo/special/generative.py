"""Networks that draw: autoencoders, U-Nets, diffusion, flows, adversaries."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.study.network import Batch
from examples.study.zoo.special.batches import COUNT, WIDTH
from examples.study.zoo.special.parts import (
    Attention,
    as_rows,
    conv,
    feed_forward,
    frequencies,
    mlp,
    zero_,
)


class ZeroModulated(nn.Module):
    """A block whose scales, shifts and gates come from a condition, by a layer that is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.attention, self.feed = Attention(WIDTH), feed_forward(WIDTH)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 6 * WIDTH))
        zero_(self.modulation)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        a, b, c, d, e, f = self.modulation(condition).unsqueeze(1).chunk(6, -1)
        x = x + c * self.attention(self.norm(x) * (1 + a) + b)
        return x + f * self.feed(self.norm(x) * (1 + d) + e)  # type: ignore[no-any-return]


class DiffusionTransformer(nn.Module):
    """A diffusion transformer with adaLN-zero blocks and a last layer that starts at zero."""

    def __init__(self, depth: int = 6):
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.times = nn.Sequential(nn.Linear(32, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.blocks = nn.ModuleList(ZeroModulated() for _ in range(depth))
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 2 * WIDTH))
        self.last = nn.Linear(WIDTH, 3 * 4 * 4)
        zero_(self.modulation, self.last)

    def forward(self, images: Tensor, times: Tensor) -> Tensor:
        condition = self.times(frequencies(times, 32))
        x = self.patches(images)
        side = x.shape[-1]
        x = as_rows(x)
        for block in self.blocks:
            x = block(x, condition)
        a, b = self.modulation(condition).unsqueeze(1).chunk(2, -1)
        y = self.last(self.norm(x) * (1 + a) + b)
        return F.fold(y.transpose(1, 2), (4 * side, 4 * side), 4, stride=4)


def mlp_autoencoder() -> nn.Module:
    """Return an autoencoder of linear layers."""
    code = mlp((3072, 256, 64, 16, 64, 256, 3072), nn.ReLU, None)
    return nn.Sequential(nn.Flatten(), code, nn.Sigmoid(), nn.Unflatten(1, (3, 32, 32)))


def conv_autoencoder() -> nn.Module:
    """Return an autoencoder of convolutions."""
    return nn.Sequential(
        conv(3, 16, 2),
        nn.ReLU(),
        conv(16, 32, 2),
        nn.ReLU(),
        conv(32, 64, 2),
        nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 3, 4, 2, 1),
        nn.Sigmoid(),
    )


class Variational(nn.Module):
    """A variational autoencoder."""

    def __init__(self, code: int = 16):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 400), nn.ReLU())
        self.mean, self.deviation = nn.Linear(400, code), nn.Linear(400, code)
        self.decoder = nn.Sequential(nn.Linear(code, 400), nn.ReLU(), nn.Linear(400, 784))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.encoder(images)
        mean, log_variance = self.mean(hidden), self.deviation(hidden)
        drawn = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return self.decoder(drawn), mean, log_variance


def evidence_bound(outputs: tuple[Tensor, Tensor, Tensor], images: Tensor) -> Tensor:
    """Return the negative evidence lower bound of a variational autoencoder."""
    drawn, mean, log_variance = outputs
    shape = F.binary_cross_entropy_with_logits(drawn, images.flatten(1), reduction="sum")
    return shape - 0.5 * (1 + log_variance - mean.pow(2) - log_variance.exp()).sum()


class UNet(nn.Module):
    """A U-Net, with the time added where it is given and a last layer that may start at zero."""

    def __init__(self, norm: Callable[[int], nn.Module], zero: bool = False, timed: bool = False):
        super().__init__()
        widths = (16, 32, 64)
        pairs = [(3, 16), (16, 32), (32, 64)]
        self.down = nn.ModuleList(self._pair(a, b, norm) for a, b in pairs)
        self.up = nn.ModuleList(self._pair(a + b, b, norm) for a, b in ((64, 32), (32, 16)))
        self.times = nn.Linear(32, widths[-1]) if timed else None
        self.last = nn.Conv2d(16, 3, 1)
        if zero:
            zero_(self.last)

    @staticmethod
    def _pair(inputs: int, outputs: int, norm: Callable[[int], nn.Module]) -> nn.Sequential:
        return nn.Sequential(
            conv(inputs, outputs),
            norm(outputs),
            nn.ReLU(),
            conv(outputs, outputs),
            norm(outputs),
            nn.ReLU(),
        )

    def forward(self, images: Tensor, times: Tensor | None = None) -> Tensor:
        kept: list[Tensor] = []
        x = images
        for number, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if number else x)
            kept.append(x)
        x = kept.pop()
        if self.times is not None and times is not None:
            x = x + self.times(frequencies(times, 32))[:, :, None, None]
        for block in self.up:
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0), kept.pop()], 1))
        return self.last(x)  # type: ignore[no-any-return]


class DiffusionBlock(nn.Module):
    """A residual block of a diffusion U-Net, whose last convolution starts at zero."""

    def __init__(self, channels: int):
        super().__init__()
        self.before = nn.Sequential(nn.GroupNorm(8, channels), nn.SiLU(), conv(channels, channels))
        self.times = nn.Linear(32, channels)
        self.after = nn.Sequential(nn.GroupNorm(8, channels), nn.SiLU(), conv(channels, channels))
        zero_(self.after[-1])

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        y = self.before(x) + self.times(times)[:, :, None, None]
        return x + self.after(y)  # type: ignore[no-any-return]


class Diffusion(nn.Module):
    """A diffusion network: residual blocks down and up, zero at the end of each and of all."""

    def __init__(self, channels: int = 32):
        super().__init__()
        self.first = conv(3, channels)
        self.blocks = nn.ModuleList(DiffusionBlock(channels) for _ in range(6))
        self.joined = nn.ModuleList(nn.Conv2d(2 * channels, channels, 1) for _ in range(2))
        self.last = nn.Sequential(nn.GroupNorm(8, channels), nn.SiLU(), conv(channels, 3))
        zero_(self.last[-1])

    def forward(self, images: Tensor, times: Tensor) -> Tensor:
        emb = frequencies(times, 32)
        a = self.blocks[0](self.first(images), emb)
        b = self.blocks[1](F.avg_pool2d(a, 2), emb)
        c = self.blocks[3](self.blocks[2](F.avg_pool2d(b, 2), emb), emb)
        up = partial(F.interpolate, scale_factor=2.0)
        d = self.blocks[4](self.joined[0](torch.cat([up(c), b], 1)), emb)
        e = self.blocks[5](self.joined[1](torch.cat([up(d), a], 1)), emb)
        return self.last(e)  # type: ignore[no-any-return]


def adversarial_(module: nn.Module) -> None:
    """Draw weights as DCGAN does."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(part.weight, 0.0, 0.02)
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight, 1.0, 0.02)
            nn.init.zeros_(part.bias)


def discriminator() -> nn.Module:
    """Return DCGAN's discriminator for pictures of 64 pixels."""
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for width in (32, 64, 128):
        layers += [nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * width)]
        layers.append(nn.LeakyReLU(0.2))
    model = nn.Sequential(*layers, nn.Conv2d(256, 1, 4, bias=False), nn.Flatten())
    adversarial_(model)
    return model


def generator() -> nn.Module:
    """Return DCGAN's generator of pictures of 64 pixels."""
    layers: list[nn.Module] = [nn.ConvTranspose2d(64, 256, 4, bias=False)]
    for width in (256, 128, 64):
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
        layers.append(nn.ConvTranspose2d(width, width // 2, 4, 2, 1, bias=False))
    layers += [nn.BatchNorm2d(32), nn.ReLU(), nn.ConvTranspose2d(32, 3, 4, 2, 1, bias=False)]
    model = nn.Sequential(*layers, nn.Tanh())
    adversarial_(model)
    return model


class Adversary(nn.Module):
    """A generator before a discriminator that is frozen, as the generator's step sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.discriminator = generator(), discriminator()
        self.discriminator.requires_grad_(False)

    def forward(self, noise: Tensor) -> Tensor:
        return self.discriminator(self.generator(noise))  # type: ignore[no-any-return]


def true_and_false() -> Batch:
    """Return random pictures, each with whether it is said to be true."""
    return torch.randn(COUNT, 3, 64, 64), torch.randint(2, (COUNT, 1)).float()


def noise_for_pictures() -> Batch:
    """Return noise for a generator, and that all of it is to look true."""
    return torch.randn(COUNT, 64, 1, 1), torch.ones(COUNT, 1)


class Coupling(nn.Module):
    """Half of a vector scaled and shifted by the other half; not at all to begin with."""

    def __init__(self, size: int, swapped: bool):
        super().__init__()
        self.swapped = swapped
        self.network = mlp((size // 2, 64, 64, size), nn.ReLU, None)
        zero_(self.network[-1])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, changed = x.chunk(2, -1)
        if self.swapped:
            kept, changed = changed, kept
        scale, shift = self.network(kept).chunk(2, -1)
        scale = scale.tanh()
        changed = changed * scale.exp() + shift
        parts = (changed, kept) if self.swapped else (kept, changed)
        return torch.cat(parts, -1), scale.sum(-1)


class Flow(nn.Module):
    """A RealNVP for vectors; its answer is the log-density of each."""

    def __init__(self, size: int = 8, depth: int = 8):
        super().__init__()
        self.layers = nn.ModuleList(Coupling(size, bool(i % 2)) for i in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(len(x), device=x.device)
        for layer in self.layers:
            x, change = layer(x)
            total = total + change
        return total - 0.5 * (x.square() + math.log(2 * math.pi)).sum(-1)


def unlikelihood(densities: Tensor) -> Tensor:
    """Return the mean negative log-density."""
    return -densities.mean()

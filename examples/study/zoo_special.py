"""Healthy networks that start at zero somewhere, or are the usual small ones of their field."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.study.network import Batch, Network

COUNT = 16
CLASSES = 10
WIDTH = 64
LENGTH = 32
VOCABULARY = 128

Build = Callable[[], nn.Module]


def vectors(inputs: int = WIDTH, classes: int = CLASSES, count: int = 64) -> Batch:
    """Return random vectors with random labels."""
    return torch.randn(count, inputs), torch.randint(classes, (count,))


def pictures(size: int = 32, channels: int = 3, count: int = COUNT) -> Batch:
    """Return random pictures with random labels."""
    return torch.randn(count, channels, size, size), torch.randint(CLASSES, (count,))


def pictures_twice(size: int = 32, channels: int = 3) -> Batch:
    """Return random pictures from 0 to 1 that are to be drawn again."""
    images = torch.rand(COUNT, channels, size, size)
    return images, images


def noisy_pictures(size: int = 32, channels: int = 3) -> Batch:
    """Return noisy pictures and times, and the noise that is to be foretold."""
    noise = torch.randn(COUNT, channels, size, size)
    times = torch.rand(COUNT)
    mixed = times.view(-1, 1, 1, 1)
    images = torch.rand(COUNT, channels, size, size)
    return ((1 - mixed) * images + mixed * noise, times), noise


def sentences(length: int = LENGTH, count: int = COUNT) -> Batch:
    """Return random sentences with random labels."""
    return torch.randint(VOCABULARY, (count, length)), torch.randint(CLASSES, (count,))


def next_words(length: int = LENGTH, count: int = 8) -> Batch:
    """Return random sentences and the same one word further."""
    words = torch.randint(VOCABULARY, (count, length + 1))
    return words[:, :-1], words[:, 1:]


def next_words_with_labels() -> Batch:
    """Return random sentences as a model of transformers takes them."""
    words = torch.randint(3, VOCABULARY, (8, LENGTH))
    return {"input_ids": words, "labels": words}, None


def points(inputs: int, outputs: int, count: int = 256) -> Batch:
    """Return points of a cube and values from 0 to 1 at them."""
    return torch.rand(count, inputs) * 2 - 1, torch.rand(count, outputs)


def sounds(length: int = 512) -> Batch:
    """Return random sounds in 64 levels, and the same one sample further."""
    levels = torch.randint(64, (4, length + 1))
    return levels[:, :-1], levels[:, 1:]


def unlabelled_vectors(size: int = 8) -> Batch:
    """Return random vectors without targets."""
    return torch.randn(64, size), None


def token_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the cross entropy over all words of all sentences."""
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def normal_(module: nn.Module, std: float = 0.02) -> None:
    """Draw weights as GPT-2 does: normal ones, biases at zero."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


def he_(module: nn.Module) -> None:
    """Draw weights after He et al.; biases at zero."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def zero_(*layers: nn.Module) -> None:
    """Set weights and biases to zero."""
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


def orthogonal(inputs: int, outputs: int, gain: float) -> nn.Linear:
    """Return a linear layer with an orthogonal weight."""
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def mlp(
    widths: tuple[int, ...], activation: Callable[[], nn.Module], change: Callable[..., Any] | None
) -> nn.Sequential:
    """Return linear layers with an activation between any two of them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), activation()]
    model = nn.Sequential(*layers[:-1])
    if change is not None:
        change(model)
    return model


class Residual(nn.Module):
    """x + scale * f(x), the scale learned where it has a start."""

    def __init__(self, body: nn.Module, scale: float | None = None, channels: int | None = None):
        super().__init__()
        self.body = body
        shape = (1,) if channels is None else (channels,)
        self.scale = None if scale is None else nn.Parameter(torch.full(shape, scale))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return x + (y if self.scale is None else self.scale * y)  # type: ignore[no-any-return]


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Attention(nn.Module):
    """Multi-head self-attention, with a low-rank addition to its queries and values if asked."""

    def __init__(self, width: int, heads: int = 4, causal: bool = False, rank: int = 0):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.project, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.down = nn.Linear(width, rank, bias=False) if rank else None
        self.up = nn.Linear(rank, 3 * width, bias=False) if rank else None

    def forward(self, x: Tensor) -> Tensor:
        every = self.project(x)
        if self.down is not None and self.up is not None:
            every = every + self.up(self.down(x))
        q, k, v = every.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.merge(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def feed_forward(width: int) -> nn.Sequential:
    """Return the two layers after an attention."""
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


def pre_norm(
    width: int, causal: bool = False, rank: int = 0, scale: float | None = None
) -> nn.Sequential:
    """Return a transformer block that normalises before its branches."""
    channels = None if scale is None else width
    attention = Attention(width, causal=causal, rank=rank)
    return nn.Sequential(
        Residual(nn.Sequential(nn.LayerNorm(width), attention), scale, channels),
        Residual(nn.Sequential(nn.LayerNorm(width), feed_forward(width)), scale, channels),
    )


class Language(nn.Module):
    """A causal transformer over words, its head tied to the embedding or not."""

    def __init__(self, depth: int, tied: bool = True, rank: int = 0):
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.Sequential(*(pre_norm(WIDTH, True, rank) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)
        normal_(self)
        if tied:
            self.head.weight = self.words.weight
        for name, parameter in self.named_parameters():
            if name.endswith(("merge.weight", "body.1.2.weight")):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * depth))
            if name.endswith("up.weight"):
                nn.init.zeros_(parameter)

    def forward(self, words: Tensor) -> Tensor:
        places = torch.arange(words.shape[1], device=words.device)
        hidden = self.blocks(self.words(words) + self.places(places))
        return self.head(self.norm(hidden))  # type: ignore[no-any-return]


def low_rank_language() -> nn.Module:
    """Return a frozen language model with LoRA's matrices, the second of which is zero."""
    model = Language(4, rank=4)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".down." in name or ".up." in name)
    return model


def peft_language() -> nn.Module:
    """Return GPT-2 in small with the LoRA layers of peft."""
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=WIDTH,
        n_layer=4,
        n_head=4,
        n_positions=LENGTH,
        bos_token_id=1,
        eos_token_id=2,
    )
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["c_attn"], fan_in_fan_out=True)
    model: nn.Module = get_peft_model(GPT2LMHeadModel(config), lora)
    return model


def conv(inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """Return a convolution of 3 x 3."""
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=bias)


def pooled(channels: int) -> nn.Sequential:
    """Return a head of averages."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


def rezero_mlp(depth: int = 24) -> nn.Module:
    """Return a residual network whose branches start at a factor of zero."""
    blocks = (
        Residual(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()), 0.0) for _ in range(depth)
    )
    return nn.Sequential(*blocks, nn.Linear(WIDTH, CLASSES))


def rezero_transformer(depth: int = 12) -> nn.Module:
    """Return a transformer without norms whose branches start at a factor of zero."""
    blocks = (
        nn.Sequential(Residual(Attention(WIDTH), 0.0), Residual(feed_forward(WIDTH), 0.0))
        for _ in range(depth)
    )
    return nn.Sequential(
        nn.Embedding(VOCABULARY, WIDTH), *blocks, Apply(partial(torch.mean, dim=1)), head()
    )


def head() -> nn.Linear:
    """Return a linear head."""
    return nn.Linear(WIDTH, CLASSES)


def skip_init(depth: int = 12, channels: int = 32) -> nn.Module:
    """Return a convolutional residual network without norms, branches times a zero."""

    def branch() -> nn.Module:
        body = nn.Sequential(
            nn.ReLU(), conv(channels, channels), nn.ReLU(), conv(channels, channels)
        )
        he_(body)
        return Residual(body, 0.0)

    return nn.Sequential(conv(3, channels), *(branch() for _ in range(depth)), pooled(channels))


class FixupBlock(nn.Module):
    """Two convolutions with scalar biases, the second of which starts at zero."""

    def __init__(self, channels: int, depth: int):
        super().__init__()
        self.first = conv(channels, channels, bias=False)
        self.second = conv(channels, channels, bias=False)
        self.biases = nn.Parameter(torch.zeros(4))
        self.scale = nn.Parameter(torch.ones(1))
        nn.init.kaiming_normal_(self.first.weight, nonlinearity="relu")
        with torch.no_grad():
            self.first.weight.mul_(depth**-0.5)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d = self.biases
        y = self.first(x + a).add(b).relu()
        return (x + self.scale * self.second(y + c) + d).relu()  # type: ignore[no-any-return]


def fixup(depth: int = 9, channels: int = 32) -> nn.Module:
    """Return a residual network without norms whose head starts at zero as well."""
    last = pooled(channels)
    zero_(last)
    blocks = (FixupBlock(channels, depth) for _ in range(depth))
    return nn.Sequential(conv(3, channels), nn.ReLU(), *blocks, last)


def layer_scale(depth: int = 12, start: float = 1e-6) -> nn.Module:
    """Return a vision transformer whose branches start at a millionth."""
    return vision(*(pre_norm(WIDTH, scale=start) for _ in range(depth)), last=head())


def vision(*blocks: nn.Module, last: nn.Module) -> nn.Module:
    """Return blocks between patches of a picture and a head."""
    return nn.Sequential(
        nn.Conv2d(3, WIDTH, 8, 8),
        Apply(_rows),
        *blocks,
        nn.LayerNorm(WIDTH),
        Apply(partial(torch.mean, dim=1)),
        last,
    )


def _rows(images: Tensor) -> Tensor:
    return images.flatten(2).transpose(1, 2)


def zero_head_vision(depth: int = 6) -> nn.Module:
    """Return a vision transformer whose head starts at zero."""
    last = head()
    zero_(last)
    return vision(*(pre_norm(WIDTH) for _ in range(depth)), last=last)


def zero_gamma_resnet(name: str) -> nn.Module:
    """Return a residual network of torchvision whose branches end with a factor of zero."""
    from torchvision.models import get_model

    model: nn.Module = get_model(name, num_classes=CLASSES, zero_init_residual=True)
    return model


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
        x = _rows(x)
        for block in self.blocks:
            x = block(x, condition)
        a, b = self.modulation(condition).unsqueeze(1).chunk(2, -1)
        y = self.last(self.norm(x) * (1 + a) + b)
        return F.fold(y.transpose(1, 2), (4 * side, 4 * side), 4, stride=4)


def frequencies(times: Tensor, width: int) -> Tensor:
    """Return sines and cosines of times."""
    rates = torch.exp(torch.linspace(0, math.log(1000), width // 2, device=times.device))
    angles = times.unsqueeze(-1) * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


class TopOne(nn.Module):
    """A switch that sends each word to one of many experts."""

    def __init__(self, experts: int = 16):
        super().__init__()
        self.router = nn.Linear(WIDTH, experts)
        self.experts = nn.ModuleList(feed_forward(WIDTH) for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        shares = self.router(x).softmax(-1)
        share, chosen = shares.max(-1)
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            here = chosen == number
            if here.any():
                y = y.masked_scatter(here.unsqueeze(-1), expert(x[here]))
        return share.unsqueeze(-1) * y  # type: ignore[no-any-return]


def idle_experts(depth: int = 2) -> nn.Module:
    """Return a transformer with many experts and few words."""
    blocks: list[nn.Module] = []
    for _ in range(depth):
        blocks.append(Residual(nn.Sequential(nn.LayerNorm(WIDTH), Attention(WIDTH))))
        blocks.append(Residual(nn.Sequential(nn.LayerNorm(WIDTH), TopOne())))
    return nn.Sequential(
        nn.Embedding(VOCABULARY, WIDTH), *blocks, Apply(partial(torch.mean, dim=1)), head()
    )


class Field(nn.Module):
    """A neural radiance field: places in many frequencies, the input joined again half-way."""

    def __init__(self, width: int, depth: int = 8, bands: int = 10):
        super().__init__()
        self.bands = bands
        size = 3 + 6 * bands
        self.before = mlp((size, *[width] * (depth // 2 + 1)), nn.ReLU, None)
        self.after = mlp((width + size, *[width] * (depth - depth // 2 - 1), 4), nn.ReLU, None)

    def forward(self, x: Tensor) -> Tensor:
        angles = x.unsqueeze(-1) * math.pi * 2.0 ** torch.arange(self.bands, device=x.device)
        x = torch.cat([x, angles.sin().flatten(1), angles.cos().flatten(1)], -1)
        y: Tensor = self.after(torch.cat([self.before(x).relu(), x], -1))
        return y.sigmoid()


class Sine(nn.Module):
    """A linear layer and the sine of it, with the weights of SIREN."""

    def __init__(self, inputs: int, outputs: int, first: bool = False, rate: float = 30.0):
        super().__init__()
        self.linear, self.rate = nn.Linear(inputs, outputs), rate
        bound = 1 / inputs if first else math.sqrt(6 / inputs) / rate
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.rate * self.linear(x))


def siren(width: int = 256, depth: int = 5) -> nn.Module:
    """Return sines over places of a picture."""
    last = nn.Linear(width, 3)
    bound = math.sqrt(6 / width) / 30
    nn.init.uniform_(last.weight, -bound, bound)
    hidden = (Sine(width, width) for _ in range(depth - 2))
    return nn.Sequential(Sine(2, width, first=True), *hidden, last)


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


class WaveBlock(nn.Module):
    """A gated dilated causal convolution with a residual and a skip output."""

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.dilation = dilation
        self.both = nn.Conv1d(channels, 2 * channels, 2, dilation=dilation)
        self.residual, self.skip = (nn.Conv1d(channels, channels, 1) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.both(F.pad(x, (self.dilation, 0))).chunk(2, 1)
        y = a.tanh() * b.sigmoid()
        return x + self.residual(y), self.skip(y)


class Wave(nn.Module):
    """WaveNet in small: two stacks of dilations, all blocks summed for the answer."""

    def __init__(self, channels: int = 32, levels: int = 64):
        super().__init__()
        self.levels = nn.Embedding(levels, channels)
        self.blocks = nn.ModuleList(WaveBlock(channels, 2**i) for _ in range(2) for i in range(7))
        self.answer = nn.Sequential(
            nn.ReLU(), nn.Conv1d(channels, channels, 1), nn.ReLU(), nn.Conv1d(channels, levels, 1)
        )
        # Nothing follows the residual output of the last block.
        self.blocks[-1].get_submodule("residual").requires_grad_(False)

    def forward(self, samples: Tensor) -> Tensor:
        x = self.levels(samples).transpose(1, 2)
        total = torch.zeros_like(x)
        for block in self.blocks:
            x, skip = block(x)
            total = total + skip
        return self.answer(total).transpose(1, 2)  # type: ignore[no-any-return]


class TemporalBlock(nn.Module):
    """Two causal convolutions with weight normalisation and a residual connection."""

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        from torch.nn.utils.parametrizations import weight_norm

        self.padding = 2 * dilation
        pair = (nn.Conv1d(channels, channels, 3, dilation=dilation) for _ in range(2))
        self.first, self.second = (weight_norm(layer) for layer in pair)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(F.pad(x, (self.padding, 0))).relu()
        y = self.second(F.pad(y, (self.padding, 0))).relu()
        return (x + y).relu()  # type: ignore[no-any-return]


def temporal() -> nn.Module:
    """Return a temporal convolutional network that labels sentences."""
    return nn.Sequential(
        nn.Embedding(VOCABULARY, WIDTH),
        Apply(partial(torch.transpose, dim0=1, dim1=2)),
        *(TemporalBlock(WIDTH, 2**i) for i in range(5)),
        Apply(partial(torch.select, dim=2, index=-1)),
        head(),
    )


class Recurrent(nn.Module):
    """An embedding, a recurrent network, and a head on its last answer."""

    def __init__(self, kind: Callable[..., nn.Module], layers: int = 1, both: bool = False):
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.recurrent = kind(WIDTH, WIDTH, num_layers=layers, batch_first=True, bidirectional=both)
        self.head = nn.Linear(2 * WIDTH if both else WIDTH, CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        answers, _ = self.recurrent(self.words(words))
        return self.head(answers.mean(1))  # type: ignore[no-any-return]


class LastAnswer(Recurrent):
    """The same, of the very last answer."""

    def forward(self, words: Tensor) -> Tensor:
        answers, _ = self.recurrent(self.words(words))
        return self.head(answers[:, -1])  # type: ignore[no-any-return]


class GraphConvolution(nn.Module):
    """A graph convolutional network of a few layers; the graph is an input."""

    def __init__(self, depth: int = 2):
        super().__init__()
        widths = [WIDTH, *[32] * (depth - 1)]
        self.layers = nn.ModuleList(
            nn.Linear(a, b, bias=False) for a, b in zip(widths, [*widths[1:], CLASSES], strict=True)
        )
        for layer in self.layers:
            nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]

    def forward(self, nodes: Tensor, graph: Tensor) -> Tensor:
        for number, layer in enumerate(self.layers):
            nodes = graph @ layer(nodes if number == 0 else nodes.relu())
        return nodes


def random_graph(nodes: int = 100) -> Batch:
    """Return a random graph with labelled nodes, its adjacency normalised by degree."""
    edges = (torch.rand(nodes, nodes) < 0.04).float()
    edges = ((edges + edges.T) > 0).float() + torch.eye(nodes)
    edges.clamp_(max=1)
    scale = edges.sum(1).rsqrt()
    graph = scale[:, None] * edges * scale
    return (torch.randn(nodes, WIDTH), graph), torch.randint(CLASSES, (nodes,))


class Recommender(nn.Module):
    """Embedded categories and numbers, their products, and a top network, as in DLRM."""

    def __init__(self, tables: int = 8, width: int = 16):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(50, width) for _ in range(tables))
        self.bottom = nn.Sequential(mlp((13, 64, 32, width), nn.ReLU, None), nn.ReLU())
        self.top = mlp((width + tables * (tables + 1) // 2, 64, 32, 1), nn.ReLU, None)
        for table in self.tables:
            nn.init.uniform_(table.weight, -(50**-0.5), 50**-0.5)  # type: ignore[arg-type]

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        dense = self.bottom(numbers)
        sparse = [table(categories[:, i]) for i, table in enumerate(self.tables)]
        vectors = torch.stack([dense, *sparse], 1)
        rows, columns = torch.tril_indices(len(sparse) + 1, len(sparse) + 1, -1)
        products = (vectors @ vectors.transpose(1, 2))[:, rows, columns]
        return self.top(torch.cat([dense, products], 1)).squeeze(1)  # type: ignore[no-any-return]


def clicks(tables: int = 8) -> Batch:
    """Return random visitors of a page, and whether they clicked."""
    inputs = (torch.rand(64, 13), torch.randint(50, (64, tables)))
    return inputs, torch.randint(2, (64,)).float()


class Towers(nn.Module):
    """Users and things in two towers, compared by their cosines."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.things = nn.Embedding(100, 32), nn.Embedding(100, 32)
        self.left, self.right = (mlp((32, 64, 32), nn.ReLU, None) for _ in range(2))

    def forward(self, users: Tensor, things: Tensor) -> Tensor:
        left = F.normalize(self.left(self.users(users)), dim=-1)
        right = F.normalize(self.right(self.things(things)), dim=-1)
        return left @ right.T / 0.1


def visits(count: int = 32) -> Batch:
    """Return random users, each with the thing that was chosen."""
    return (torch.randint(100, (count,)), torch.randint(100, (count,))), torch.arange(count)


class Siamese(nn.Module):
    """One network for both pictures of a pair; the distance of what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.twin = nn.Sequential(
            conv(3, 16, 2),
            nn.ReLU(),
            conv(16, 32, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 64, 32),
        )

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return F.pairwise_distance(self.twin(left), self.twin(right))


def contrastive(distances: Tensor, same: Tensor) -> Tensor:
    """Pull the same together, push others apart up to a margin of one."""
    return (same * distances.square() + (1 - same) * (1 - distances).relu().square()).mean()


def pairs() -> Batch:
    """Return pairs of random pictures, half of them the same thing."""
    left, right = torch.randn(2, COUNT, 3, 32, 32)
    return (left, right), (torch.arange(COUNT) % 2).float()


class Scaled(nn.Module):
    """Averages of four pixels with one weight and one bias per channel, as in LeNet-5."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.weight * F.avg_pool2d(x, 2) + self.bias)


def lenet() -> nn.Module:
    """Return LeNet-5 with hyperbolic tangents."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5),
        Scaled(6),
        nn.Conv2d(6, 16, 5),
        Scaled(16),
        nn.Conv2d(16, 120, 5),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(120, 84),
        nn.Tanh(),
        nn.Linear(84, CLASSES),
    )


def residual_mlp(depth: int = 50) -> nn.Module:
    """Return residual blocks that normalise first."""
    blocks = (
        Residual(nn.Sequential(nn.LayerNorm(WIDTH), feed_forward(WIDTH))) for _ in range(depth)
    )
    return nn.Sequential(*blocks, nn.LayerNorm(WIDTH), head())


class Highway(nn.Module):
    """A layer that carries most of its input on, as its gate starts out."""

    def __init__(self, width: int = WIDTH):
        super().__init__()
        self.change, self.gate = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.constant_(self.gate.bias, -2.0)

    def forward(self, x: Tensor) -> Tensor:
        share = self.gate(x).sigmoid()
        return share * self.change(x).relu() + (1 - share) * x  # type: ignore[no-any-return]


class Dense(nn.Module):
    """A layer whose answer is joined to all before it."""

    def __init__(self, inputs: int, growth: int):
        super().__init__()
        self.layer = nn.Linear(inputs, growth)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.layer(x).relu()], -1)


def dense_mlp(depth: int = 10, growth: int = 16) -> nn.Module:
    """Return layers each of which sees all before it."""
    layers = (Dense(WIDTH + i * growth, growth) for i in range(depth))
    return nn.Sequential(*layers, nn.Linear(WIDTH + depth * growth, CLASSES))


class Mixer(nn.Module):
    """Linear layers over places, then over channels."""

    def __init__(self, places: int = 16):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.places, self.channels = feed_forward(places), feed_forward(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.places(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norms[1](x))  # type: ignore[no-any-return]


def plain_conv(depth: int = 20, channels: int = 32) -> nn.Module:
    """Return convolutions with batch normalisation and nothing around them."""
    layers: list[nn.Module] = []
    for number in range(depth):
        layers += [conv(channels if number else 3, channels), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers, pooled(channels))


class PointNet(nn.Module):
    """Every point on its own, then the largest of each feature."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 64, 64, 128, 256)
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Conv1d(a, b, 1), nn.BatchNorm1d(b), nn.ReLU()]
        self.points = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Linear(256, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.3)
        )
        self.last = nn.Linear(128, CLASSES)

    def forward(self, clouds: Tensor) -> Tensor:
        return self.last(self.head(self.points(clouds).amax(-1)))  # type: ignore[no-any-return]


def clouds() -> Batch:
    """Return random clouds of points with random labels."""
    return torch.randn(COUNT, 3, 128), torch.randint(CLASSES, (COUNT,))


def encoder(depth: int = 6, norm_first: bool = False) -> nn.Module:
    """Return torch's own transformer encoder, as it comes."""
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 128, batch_first=True, norm_first=norm_first)
    # Without it a warning says that nested tensors cannot be used.
    blocks = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
    mean = Apply(partial(torch.mean, dim=1))
    return nn.Sequential(nn.Embedding(VOCABULARY, WIDTH), blocks, mean, head())


class Squeeze(nn.Module):
    """Channels weighed by a small network that sees their averages."""

    def __init__(self, channels: int, reduction: int = 4):
        super().__init__()
        self.down = nn.Linear(channels, channels // reduction)
        self.up = nn.Linear(channels // reduction, channels)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.up(self.down(x.mean((2, 3))).relu()).sigmoid()
        return x * weights[:, :, None, None]  # type: ignore[no-any-return]


def squeeze_excite(depth: int = 6, channels: int = 32) -> nn.Module:
    """Return a residual network whose branches weigh their channels."""

    def block() -> nn.Module:
        layers = (conv(channels, channels), nn.BatchNorm2d(channels), nn.ReLU())
        again = (conv(channels, channels), nn.BatchNorm2d(channels), Squeeze(channels))
        return nn.Sequential(Residual(nn.Sequential(*layers, *again)), nn.ReLU())

    return nn.Sequential(conv(3, channels), *(block() for _ in range(depth)), pooled(channels))


class Dueling(nn.Module):
    """The value of a state and the advantages of actions, from screens of a game."""

    def __init__(self, actions: int = 6):
        super().__init__()
        self.screens = nn.Sequential(
            nn.Conv2d(4, 32, 8, 4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.value = mlp((3136, 512, 1), nn.ReLU, None)
        self.advantage = mlp((3136, 512, actions), nn.ReLU, None)

    def forward(self, screens: Tensor) -> Tensor:
        seen = self.screens(screens)
        advantage = self.advantage(seen)
        return self.value(seen) + advantage - advantage.mean(1, keepdim=True)  # type: ignore[no-any-return]


def screens(actions: int = 6) -> Batch:
    """Return screens of a game, the actions taken and what they were worth."""
    return torch.rand(COUNT, 4, 84, 84), (torch.randint(actions, (COUNT,)), torch.randn(COUNT))


def temporal_difference(values: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
    """Compare the values of the actions taken with what they were worth."""
    actions, worth = targets
    return F.smooth_l1_loss(values.gather(1, actions.unsqueeze(1)).squeeze(1), worth)


class ActorCritic(nn.Module):
    """A policy that starts out undecided, and a critic of its own."""

    def __init__(self, actions: int = 4):
        super().__init__()
        root = math.sqrt(2)
        self.actor, self.critic = (
            nn.Sequential(
                orthogonal(8, 64, root),
                nn.Tanh(),
                orthogonal(64, 64, root),
                nn.Tanh(),
                orthogonal(64, outputs, gain),
            )
            for outputs, gain in ((actions, 0.01), (1, 1.0))
        )

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        return self.actor(states), self.critic(states).squeeze(1)


def played() -> Batch:
    """Return states, the actions taken, their probability, advantages and returns."""
    actions = torch.randint(4, (64,))
    return torch.randn(64, 8), (actions, torch.full((64,), 0.25), *torch.randn(2, 64))


def clipped_policy(outputs: tuple[Tensor, Tensor], targets: tuple[Tensor, ...]) -> Tensor:
    """Return the loss of PPO with the critic's and a bonus for entropy."""
    logits, values = outputs
    actions, before, advantages, returns = targets
    chances = logits.softmax(-1)
    ratio = chances.gather(1, actions.unsqueeze(1)).squeeze(1) / before
    policy = -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()
    entropy = -(chances * logits.log_softmax(-1)).sum(-1).mean()
    return policy + 0.5 * F.mse_loss(values, returns) - 0.01 * entropy


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


class Differential(nn.Module):
    """One small network applied again and again, as a solver of an equation does."""

    def __init__(self, steps: int = 20):
        super().__init__()
        self.slope, self.steps = mlp((WIDTH, WIDTH, WIDTH), nn.Tanh, None), steps
        self.first, self.last = nn.Linear(WIDTH, WIDTH), head()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(self.steps):
            x = x + self.slope(x) / self.steps
        return self.last(x)  # type: ignore[no-any-return]


class Translator(nn.Module):
    """Words through torch's own transformer of encoder and decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.both = nn.Transformer(WIDTH, 4, 3, 3, 128, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, words: Tensor) -> Tensor:
        seen = self.words(words)
        return self.head(self.both(seen, seen))  # type: ignore[no-any-return]


def mixers(depth: int = 6) -> nn.Module:
    """Return an MLP-Mixer for pictures of 32 pixels."""
    return vision(*(Mixer() for _ in range(depth)), last=head())


def highway(depth: int = 20) -> nn.Module:
    """Return highway layers before a head."""
    return nn.Sequential(*(Highway() for _ in range(depth)), head())


group_norm: Callable[[int], nn.Module] = partial(nn.GroupNorm, 8)
BCE = F.binary_cross_entropy_with_logits
TINY = (WIDTH, *[256] * 4, CLASSES)

Entry = tuple[str, Build, Callable[[], Batch], Callable[..., Any] | None, str]

#: What starts at zero, or close to it, by design: name, build, batch, loss, source.
NEAR_ZERO: tuple[Entry, ...] = (
    ("LoRA, by hand", low_rank_language, next_words, token_cross_entropy, "Hu et al., 2021"),
    ("LoRA, peft", peft_language, next_words_with_labels, None, "Hu et al., 2021"),
    ("ReZero MLP", rezero_mlp, vectors, F.cross_entropy, "Bachlechner et al., 2020"),
    (
        "ReZero transformer",
        rezero_transformer,
        sentences,
        F.cross_entropy,
        "Bachlechner et al., 2020",
    ),
    ("SkipInit", skip_init, pictures, F.cross_entropy, "De and Smith, 2020"),
    ("Fixup", fixup, pictures, F.cross_entropy, "Zhang et al., 2019"),
    ("LayerScale 1e-6", layer_scale, pictures, F.cross_entropy, "Touvron et al., 2021"),
    (
        "LayerScale 1e-6, 36 blocks",
        partial(layer_scale, 36),
        pictures,
        F.cross_entropy,
        "Touvron et al., 2021",
    ),
    (
        "zero gamma ResNet-18",
        partial(zero_gamma_resnet, "resnet18"),
        partial(pictures, 64),
        F.cross_entropy,
        "Goyal et al., 2017",
    ),
    (
        "zero gamma ResNet-50",
        partial(zero_gamma_resnet, "resnet50"),
        partial(pictures, 64),
        F.cross_entropy,
        "Goyal et al., 2017",
    ),
    ("ViT, zero head", zero_head_vision, pictures, F.cross_entropy, "Dosovitskiy et al., 2021"),
    ("DiT, adaLN-zero", DiffusionTransformer, noisy_pictures, F.mse_loss, "Peebles and Xie, 2023"),
    (
        "diffusion U-Net, zero convolutions",
        Diffusion,
        noisy_pictures,
        F.mse_loss,
        "Dhariwal and Nichol, 2021",
    ),
    (
        "U-Net, zero output",
        partial(UNet, group_norm, True, True),
        noisy_pictures,
        F.mse_loss,
        "Ho et al., 2020",
    ),
    (
        "RealNVP, zero last layers",
        Flow,
        unlabelled_vectors,
        unlikelihood,
        "Dinh et al., 2017; Kingma and Dhariwal, 2018",
    ),
    ("PPO, policy gain 0.01", ActorCritic, played, clipped_policy, "Andrychowicz et al., 2021"),
    (
        "16 experts, few words",
        idle_experts,
        partial(sentences, 8, 2),
        F.cross_entropy,
        "Fedus et al., 2021",
    ),
)

#: Networks for vectors.
MLPS: tuple[Entry, ...] = (
    (
        "ReLU MLP 5x256",
        partial(mlp, (WIDTH, *[256] * 5, CLASSES), nn.ReLU, None),
        vectors,
        F.cross_entropy,
        "PyTorch's weights",
    ),
    (
        "ReLU MLP 5x256, He",
        partial(mlp, (WIDTH, *[256] * 5, CLASSES), nn.ReLU, he_),
        vectors,
        F.cross_entropy,
        "He et al., 2015",
    ),
    (
        "GELU MLP-6",
        partial(mlp, (WIDTH, *[256] * 5, CLASSES), nn.GELU, None),
        vectors,
        F.cross_entropy,
        "PyTorch's weights",
    ),
    (
        "SiLU MLP-4",
        partial(mlp, (WIDTH, *[256] * 3, CLASSES), nn.SiLU, None),
        vectors,
        F.cross_entropy,
        "PyTorch's weights",
    ),
    (
        "tanh MLP-5",
        partial(mlp, TINY, nn.Tanh, None),
        vectors,
        F.cross_entropy,
        "PyTorch's weights",
    ),
    (
        "sigmoid MLP-2",
        partial(mlp, (WIDTH, 128, CLASSES), nn.Sigmoid, None),
        vectors,
        F.cross_entropy,
        "PyTorch's weights",
    ),
    (
        "50 residual blocks",
        residual_mlp,
        vectors,
        F.cross_entropy,
        "He et al., 2016; Xiong et al., 2020",
    ),
    ("highway network", highway, vectors, F.cross_entropy, "Srivastava et al., 2015"),
    ("DenseNet-like MLP", dense_mlp, vectors, F.cross_entropy, "Huang et al., 2017"),
    ("neural ODE, Euler", Differential, vectors, F.cross_entropy, "Chen et al., 2018"),
    (
        "NeRF 8x128",
        partial(Field, 128),
        partial(points, 3, 4),
        F.mse_loss,
        "Mildenhall et al., 2020",
    ),
    (
        "NeRF 8x256",
        partial(Field, 256),
        partial(points, 3, 4),
        F.mse_loss,
        "Mildenhall et al., 2020",
    ),
    ("SIREN", siren, partial(points, 2, 3), F.mse_loss, "Sitzmann et al., 2020"),
    ("DLRM", Recommender, clicks, BCE, "Naumov et al., 2019"),
    ("two towers", Towers, visits, F.cross_entropy, "Yi et al., 2019"),
    ("GCN, 2 layers", GraphConvolution, random_graph, F.cross_entropy, "Kipf and Welling, 2017"),
    (
        "GCN, 4 layers",
        partial(GraphConvolution, 4),
        random_graph,
        F.cross_entropy,
        "Kipf and Welling, 2017",
    ),
)

#: Networks for pictures and points.
PICTURES: tuple[Entry, ...] = (
    ("LeNet-5", lenet, partial(pictures, 32, 1), F.cross_entropy, "LeCun et al., 1998"),
    (
        "20 convolutions, batch norm",
        plain_conv,
        pictures,
        F.cross_entropy,
        "Ioffe and Szegedy, 2015",
    ),
    ("squeeze and excite", squeeze_excite, pictures, F.cross_entropy, "Hu et al., 2018"),
    ("MLP-Mixer", mixers, pictures, F.cross_entropy, "Tolstikhin et al., 2021"),
    (
        "autoencoder, linear",
        mlp_autoencoder,
        pictures_twice,
        F.mse_loss,
        "Hinton and Salakhutdinov, 2006",
    ),
    (
        "autoencoder, convolutions",
        conv_autoencoder,
        pictures_twice,
        F.mse_loss,
        "Masci et al., 2011",
    ),
    (
        "VAE",
        Variational,
        partial(pictures_twice, 28, 1),
        evidence_bound,
        "Kingma and Welling, 2014",
    ),
    (
        "U-Net, batch norm",
        partial(UNet, nn.BatchNorm2d),
        pictures_twice,
        F.mse_loss,
        "Ronneberger et al., 2015",
    ),
    (
        "U-Net, group norm",
        partial(UNet, group_norm),
        pictures_twice,
        F.mse_loss,
        "Ronneberger et al., 2015",
    ),
    ("DCGAN discriminator", discriminator, true_and_false, BCE, "Radford et al., 2016"),
    ("DCGAN generator", Adversary, noise_for_pictures, BCE, "Radford et al., 2016"),
    ("siamese", Siamese, pairs, contrastive, "Hadsell et al., 2006"),
    ("PointNet", PointNet, clouds, F.cross_entropy, "Qi et al., 2017"),
    ("dueling DQN", Dueling, screens, temporal_difference, "Wang et al., 2016"),
)

#: Networks for sequences.
SEQUENCES: tuple[Entry, ...] = (
    (
        "GPT-2, 12 layers, tied",
        partial(Language, 12),
        next_words,
        token_cross_entropy,
        "Radford et al., 2019",
    ),
    (
        "tied language model",
        partial(Language, 4),
        next_words,
        token_cross_entropy,
        "Press and Wolf, 2017",
    ),
    (
        "untied language model",
        partial(Language, 4, False),
        next_words,
        token_cross_entropy,
        "Radford et al., 2019",
    ),
    (
        "nn.TransformerEncoder, post-norm",
        encoder,
        sentences,
        F.cross_entropy,
        "Vaswani et al., 2017",
    ),
    (
        "nn.TransformerEncoder, pre-norm",
        partial(encoder, 6, True),
        sentences,
        F.cross_entropy,
        "Xiong et al., 2020",
    ),
    ("nn.Transformer", Translator, next_words, token_cross_entropy, "Vaswani et al., 2017"),
    ("WaveNet", Wave, sounds, token_cross_entropy, "van den Oord et al., 2016"),
    ("TCN", temporal, sentences, F.cross_entropy, "Bai et al., 2018"),
    (
        "LSTM",
        partial(Recurrent, nn.LSTM),
        sentences,
        F.cross_entropy,
        "Hochreiter and Schmidhuber, 1997",
    ),
    (
        "LSTM, 2 layers, both ways",
        partial(Recurrent, nn.LSTM, 2, True),
        sentences,
        F.cross_entropy,
        "Graves and Schmidhuber, 2005",
    ),
    ("GRU", partial(Recurrent, nn.GRU), sentences, F.cross_entropy, "Cho et al., 2014"),
    ("RNN", partial(Recurrent, nn.RNN), sentences, F.cross_entropy, "Elman, 1990"),
    (
        "LSTM, last answer",
        partial(LastAnswer, nn.LSTM),
        sentences,
        F.cross_entropy,
        "Hochreiter and Schmidhuber, 1997",
    ),
    (
        "GRU, last answer",
        partial(LastAnswer, nn.GRU),
        sentences,
        F.cross_entropy,
        "Cho et al., 2014",
    ),
)


def special_networks() -> tuple[Network, ...]:
    """Return the networks of all tables."""
    return tuple(
        Network(name, "special", build, batch, loss, source)
        for name, build, batch, loss, source in (*NEAR_ZERO, *MLPS, *PICTURES, *SEQUENCES)
    )

"""Networks for pictures and points."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.study.network import Batch
from examples.study.zoo.special.batches import BCE, CLASSES, COUNT, WIDTH, pictures, pictures_twice
from examples.study.zoo.special.entry import Entry
from examples.study.zoo.special.generative import (
    Adversary,
    UNet,
    Variational,
    conv_autoencoder,
    discriminator,
    evidence_bound,
    mlp_autoencoder,
    noise_for_pictures,
    true_and_false,
)
from examples.study.zoo.special.parts import (
    Residual,
    conv,
    feed_forward,
    group_norm,
    head,
    mlp,
    pooled,
    vision,
)


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


def mixers(depth: int = 6) -> nn.Module:
    """Return an MLP-Mixer for pictures of 32 pixels."""
    return vision(*(Mixer() for _ in range(depth)), last=head())


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

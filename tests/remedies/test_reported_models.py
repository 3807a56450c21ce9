"""Models of public reports: each printed cure is typed in and trains under five seeds."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import Treatment, built_in_remedies, probe, suggest
from pytest_gradhealth.remedies import trial

SEEDS = range(5)
STEPS = 60
LINES = torch.linspace(-1, 1, 32)[:, None]
#: One of each family, and those that were called cures and were none.
FEW = (
    *("standardised inputs", "ReLU", "batch norm", "residual", "unit-variance init"),
    "LeakyReLU at the output",
)


class Slope(nn.Module):
    """Returns how its network rises: differentiates in its forward."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [1, *[16] * 8]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b), nn.Sigmoid()]
        self.net = nn.Sequential(*layers, nn.Linear(16, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        return torch.autograd.grad(self.net(x).sum(), x, create_graph=True)[0]


class TwoHeads(nn.Module):
    """An actor and a critic, which share a body, and squash one of their outputs."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (8, *[32] * 8):
            layers += [nn.Linear(inputs, 32), nn.Sigmoid()]
        self.body = nn.Sequential(*layers)
        self.actor, self.critic = nn.Linear(32, 4), nn.Linear(32, 1)
        self.squash = nn.Sigmoid()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.squash(self.actor(h)), self.critic(h)[:, 0]


def discriminator() -> nn.Module:
    """Ends in a sigmoid, which pictures of 16 bits saturate."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten()),
        *(nn.Linear(128, 1), nn.Sigmoid()),
    )


def dense() -> nn.Module:
    layers: list[nn.Module] = []
    for channels in (1, *[8] * 9):
        layers += [nn.Conv2d(channels, 8, 3, padding=1), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Conv2d(8, 3, 1))


class Squashed(nn.Module):
    """A policy whose likelihood is infinite where tanh rounds to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.mean, self.log_std = nn.Linear(64, 3), nn.Linear(64, 3)
        self.value = nn.Sequential(nn.Linear(15, 64), nn.ReLU(), nn.Linear(64, 1))
        self.value.requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        mean, log_std = self.mean(h), self.log_std(h).clamp(-5, 2)
        noise = torch.randn_like(mean)
        u = mean + log_std.exp() * noise
        action = torch.tanh(u)
        density = -0.5 * noise**2 - log_std - 0.92 - torch.log(1 - action**2)
        return density.sum(-1), self.value(torch.cat([x / 50, action], -1))[:, 0]


class Field(nn.Module):
    """Light through a density that a ReLU makes zero everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.density, self.colour = nn.Linear(32, 1), nn.Linear(32, 3)
        self.activation = F.relu
        nn.init.constant_(self.density.bias, -1.0)

    def forward(self, points: Tensor) -> Tensor:
        h = self.trunk(torch.cat([points.sin(), points.cos()], -1))
        passed = torch.exp(-0.1 * self.activation(self.density(h)))
        through = torch.cat([torch.ones_like(passed[:, :1]), passed], 1).cumprod(1)
        shown = through[:, :-1] * (1 - passed) * torch.sigmoid(self.colour(h))
        light: Tensor = shown.sum(1) + through[:, -1]
        return light


class Spike(torch.autograd.Function):
    """A step, with a slope near to it alone."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return (u > 0).float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        near: Tensor = u.abs() < 0.5
        return gradients[0] * near


class Neurons(nn.Module):
    """Leaky integration of currents over time, with spikes."""

    def forward(self, currents: Tensor) -> Tensor:
        u, spikes = torch.zeros_like(currents[0]), []
        for current in currents:
            u = u + (current - u) / 4
            spikes.append(Spike.apply(u - 1))
            u = u * (1 - spikes[-1].detach())
        return torch.stack(spikes)


class Spiking(nn.Module):
    """Layers of neurons whose membranes stay far from their threshold."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [nn.Linear(24, 24), Neurons()]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x)).mean(0)
        return logits


def policy_loss(outputs: tuple[Tensor, Tensor], _: object) -> Tensor:
    return (0.2 * outputs[0] - outputs[1]).mean()


def actor_critic_loss(outputs: Any, targets: Any) -> Tensor:
    return F.mse_loss(outputs[0], targets[0]) + F.mse_loss(outputs[1], targets[1])


def slope_loss(slopes: Tensor, _: object) -> Tensor:
    return (slopes - 1).square().mean()


def states() -> tuple[Tensor, Any]:
    x = torch.randn(64, 8)
    return x, (F.one_hot(x[:, :4].argmax(1), 4).float(), x[:, 0])


def pictures() -> tuple[Tensor, Tensor]:
    x = 65535 * torch.rand(64, 1, 8, 8)
    x[::2, :, :4] *= 0.5
    return x, (torch.arange(64) % 2).float()[:, None]


def rays() -> tuple[Tensor, Tensor]:
    points = torch.randn(32, 1, 3) + torch.linspace(0, 2, 8)[None, :, None]
    return points, torch.sigmoid(4 * points[:, 0])


def trains_of_spikes() -> tuple[Tensor, Tensor]:
    rates = 0.1 + 0.4 * torch.rand(4, 24)
    labels = torch.arange(24) % 4
    return (torch.rand(6, 24, 24) < rates[labels]).float(), labels


def two_maps() -> tuple[Tensor, Tensor]:
    x = F.avg_pool2d(torch.randn(2, 1, 16, 16), 3, 1, 1)
    return x, (x[:, 0] > 0.1).long() + (x[:, 0] > -0.1).long()


@dataclass(frozen=True)
class Report:
    """A sick model, its batch and loss, and what cures it for sure."""

    build: Callable[[], nn.Module]
    batch: Callable[[], tuple[Tensor, Any]]
    loss: Callable[..., Tensor]
    cures: tuple[str, ...]


REPORTS = {
    "slope": Report(Slope, lambda: (LINES, None), slope_loss, ("ReLU", "residual")),
    "two heads": Report(TwoHeads, states, actor_critic_loss, ("batch norm",)),
    "discriminator": Report(
        discriminator, pictures, F.binary_cross_entropy, ("standardised inputs",)
    ),
    "policy": Report(Squashed, lambda: (50 * torch.randn(128, 12), None), policy_loss, ()),
    "field": Report(Field, rays, F.mse_loss, ("LeakyReLU at the output",)),
    "spikes": Report(Spiking, trains_of_spikes, F.cross_entropy, ("residual",)),
    "dense": Report(dense, two_maps, F.cross_entropy, ("ReLU",)),
}


@dataclass(frozen=True)
class Tried:
    report: Report
    batch: tuple[Tensor, Any]
    found: dict[str, Treatment]

    @property
    def cured(self) -> list[Treatment]:
        return [t for t in self.found.values() if t.outcome == "cured"]


@pytest.fixture(scope="module", params=REPORTS)
def tried(request: pytest.FixtureRequest) -> Tried:
    report = REPORTS[request.param]
    torch.manual_seed(0)
    batch, model = report.batch(), report.build()
    few = tuple(remedy for remedy in built_in_remedies() if remedy.name in FEW)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "built_in_remedies", lambda: few)
        found = suggest(probe(model, *batch, loss=report.loss), budget=300)
    return Tried(report, batch, {t.remedy: t for t in found})


def trained(model: nn.Module, batch: tuple[Tensor, Any], loss: Callable[..., Tensor]) -> Tensor:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = loss(model(batch[0]), batch[1])
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(value.detach())
    return torch.stack(losses)


def test_what_is_printed_as_a_cure_trains_under_five_seeds(tried: Tried) -> None:
    assert {t.remedy for t in tried.cured} >= {*tried.report.cures}
    for treatment in tried.cured:
        for seed in SEEDS:
            torch.manual_seed(seed)
            space: dict[str, Any] = {"model": tried.report.build()}
            exec(treatment.code, space)
            losses = trained(space["model"], tried.batch, tried.report.loss)
            assert losses.isfinite().all(), treatment
            fall = losses[0] - losses[-1]
            assert fall > 0.1 * losses[0].abs(), (treatment, seed, losses)


def test_nothing_is_better_whose_loss_rises(tried: Tried) -> None:
    for treatment in tried.found.values():
        if treatment.outcome in ("cured", "better") and treatment.after and treatment.after.end:
            start = treatment.after.start or 0.0
            assert treatment.after.end - start <= 0.1 * abs(start), treatment


def test_no_reason_is_that_the_forward_differentiates(tried: Tried) -> None:
    for treatment in tried.found.values():
        assert "RuntimeError" not in treatment.reason


def test_nothing_stands_between_a_head_and_the_loss(tried: Tried) -> None:
    for treatment in tried.found.values():
        if not treatment.code or tried.report.build is not TwoHeads:
            continue
        space: dict[str, Any] = {"model": TwoHeads()}
        exec(treatment.code, space)
        model = space["model"]
        kinds = [type(layer) for layer in (model.actor, model.critic, model.squash)]
        assert kinds == [nn.Linear, nn.Linear, nn.Sigmoid], treatment.remedy

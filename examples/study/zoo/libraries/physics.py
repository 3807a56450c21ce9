"""Operators, splines, fields and differential equations, and agents, of small libraries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.study.network import Batch
from examples.study.zoo.libraries.entry import Asked, Made, Row, Table, itself, of

SIDE, ACTIONS, STATES = 16, 4, 8


def diffused(channels: int = 1, count: int = 8) -> Batch:
    """Return smooth fields and what they diffuse to in a while."""
    coarse = torch.randn(count, channels, 4, 4)
    fields = F.interpolate(coarse, (SIDE, SIDE), mode="bicubic")
    return fields, F.avg_pool2d(F.pad(fields, (2, 2, 2, 2), "circular"), 5, 1).sum(1, True)


def along_lines(count: int = 8) -> Batch:
    """Return smooth functions of one variable and what they are a little later."""
    coarse = torch.randn(count, 1, 8)
    lines = F.interpolate(coarse, 64, mode="linear")
    return lines, lines.roll(4, -1)


def points(inputs: int = 2, count: int = 256) -> Batch:
    """Return points of a square and a smooth value at each."""
    places = torch.rand(count, inputs) * 2 - 1
    return places, (3 * places).sin().prod(1, keepdim=True)


def spirals(steps: int = 16, count: int = 16) -> Batch:
    """Return where points begin, and where they are at each step of a spiral."""
    begin = torch.randn(count, 2)
    turn = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])
    path = [begin @ torch.linalg.matrix_exp(turn * t / steps) for t in range(steps)]
    return begin, torch.stack(path)


def controls(steps: int = 16, count: int = 16) -> Batch:
    """Return paths with their times, and labels of their direction."""
    time = torch.linspace(0, 1, steps).expand(count, steps)
    speed = torch.randn(count, 1)
    paths = torch.stack([time, (4 * speed * time).sin(), (4 * speed * time).cos()], -1)
    return paths, (speed > 0).float()


class Slope(nn.Module):
    """The slope of an equation that does not depend on the time."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 2))

    def forward(self, _: Tensor, state: Tensor) -> Tensor:
        return self.layers(state)  # type: ignore[no-any-return]


class Solved(nn.Module):
    """A slope that a solver of torchdiffeq follows from where a point begins."""

    def __init__(self, solver: str, **options: Any):
        super().__init__()
        self.slope, self.solver, self.options = Slope(), solver, options

    def forward(self, begin: Tensor) -> Tensor:
        import torchdiffeq

        solve = getattr(torchdiffeq, self.solver)
        return solve(self.slope, begin, torch.linspace(0, 1, 16), **self.options)  # type: ignore[no-any-return]


class Controlled(nn.Module):
    """A neural controlled differential equation over splines through a path."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.width, self.first = width, nn.Linear(3, width)
        self.slope = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, width * 3))
        self.last = nn.Linear(width, 1)

    def forward(self, paths: Tensor) -> Tensor:
        import torchcde

        spline = torchcde.CubicSpline(
            torchcde.hermite_cubic_coefficients_with_backward_differences(paths)
        )
        begin = self.first(spline.evaluate(spline.interval[0]))
        path = torchcde.cdeint(
            spline, self._slope, begin, spline.interval, adjoint=False, method="rk4"
        )
        return self.last(path[:, -1])  # type: ignore[no-any-return]

    def _slope(self, _: Tensor, state: Tensor) -> Tensor:
        return self.slope(state).tanh().unflatten(-1, (self.width, 3))  # type: ignore[no-any-return]


class Residuals(nn.Module):
    """A field of a library, told by Poisson's equation inside and by zero at the edge."""

    def __init__(self, field: nn.Module):
        super().__init__()
        self.field = field

    def forward(self, inside: Tensor, edge: Tensor) -> Tensor:
        inside = inside.detach().requires_grad_()
        value = self.field(inside)
        (slope,) = torch.autograd.grad(value.sum(), inside, create_graph=True)
        bend = sum(
            torch.autograd.grad(slope[:, i].sum(), inside, create_graph=True)[0][:, i]
            for i in range(inside.shape[1])
        )
        source = (torch.pi * inside).sin().prod(1)
        return (bend + source).square().mean() + self.field(edge).square().mean()  # type: ignore[no-any-return]


def inside_and_edge(count: int = 128) -> Batch:
    """Return points inside a square and on its edge."""
    edge = torch.rand(64, 2) * 2 - 1
    side = torch.arange(64)
    edge[side, side % 2] = edge[side, side % 2].sign()
    return (torch.rand(count, 2) * 2 - 1, edge), None


def states(count: int = 64) -> Tensor:
    """Return states of an environment."""
    return torch.randn(count, STATES)


def advantages() -> Batch:
    """Return states, actions and what was better or worse than expected, with returns."""
    seen = states()
    actions = torch.randint(ACTIONS, (64,))
    better = torch.where(actions == seen[:, :ACTIONS].argmax(1), 1.0, -0.5)
    return (seen, actions), (better, seen[:, 0])


def moves() -> Batch:
    """Return states and moves in two directions, with what was better and returns."""
    seen = states()
    moved = torch.randn(64, 2)
    return (seen, moved), (-(moved - seen[:, :2]).square().mean(1), seen[:, 0])


def policy_loss(outputs: tuple[Tensor, Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
    """Return the loss of an actor and a critic, with a bonus for entropy."""
    values, likelihood, entropy = outputs
    better, returns = targets
    critic = F.mse_loss(values.flatten(), returns)
    return -(likelihood * better).mean() + 0.5 * critic - 0.01 * entropy.mean()


def schedule(_: float) -> float:
    """Return the learning rate that a policy of stable-baselines3 is made with."""
    return 3e-4


SPACE = of("gymnasium.spaces.Box", -10.0, 10.0, (STATES,))
CHOICES = of("gymnasium.spaces.Discrete", ACTIONS)
DIRECTIONS = of("gymnasium.spaces.Box", -1.0, 1.0, (2,))


def policy(kind: str, actions: Made, **options: Any) -> Made:
    """Say how a policy of stable-baselines3 is made and asked about actions."""
    built = of(f"stable_baselines3.common.policies.{kind}", SPACE, actions, schedule, **options)
    return of(Asked, built, "evaluate_actions")


def operator(name: str, kind: str, **options: Any) -> Row:
    """Return the row of an operator of neuraloperator for fields of two variables."""
    sizes = {"in_channels": 1, "out_channels": 1, "hidden_channels": 16, **options}
    return name, of(f"neuralop.models.{kind}", **sizes), diffused, F.mse_loss


def kan(name: str, width: list[int], **options: Any) -> Row:
    """Return the row of a Kolmogorov-Arnold network of pykan."""
    built = of("kan.KAN", width=width, auto_save=False, **options)
    return name, built, points, F.mse_loss


def siren(**options: Any) -> Made:
    """Say how a sinusoidal network of siren-pytorch is made."""
    sizes = {"dim_in": 2, "dim_hidden": 64, "dim_out": 1, "num_layers": 4}
    return of("siren_pytorch.SirenNet", **sizes, **options)


PHYSICS: Table = {
    "neuralop": (
        operator("FNO", "FNO", n_modes=(8, 8)),
        operator("FNO, tensors factorised", "TFNO", n_modes=(8, 8), rank=0.2),
        operator(
            "U-shaped operator",
            "UNO",
            n_layers=3,
            uno_out_channels=[16, 32, 16],
            uno_n_modes=[[8, 8], [4, 4], [8, 8]],
            uno_scalings=[[1.0, 1.0], [0.5, 0.5], [2.0, 2.0]],
            channel_mlp_skip="linear",
        ),
        (
            "FNO, one variable",
            of("neuralop.models.FNO", (16,), 1, 1, 16),
            along_lines,
            F.mse_loss,
        ),
    ),
    "kan": (
        kan("KAN", [2, 5, 1]),
        kan("KAN, three layers", [2, 5, 5, 1], grid=5),
    ),
    "siren_pytorch": (
        ("SIREN", siren(), points, F.mse_loss),
        (
            "SIREN, Poisson's equation",
            of(Residuals, siren(w0_initial=3.0)),
            inside_and_edge,
            itself,
        ),
    ),
    "torchdiffeq": (
        ("neural ODE, Runge-Kutta", of(Solved, "odeint", method="rk4"), spirals, F.l1_loss),
        (
            "neural ODE, adaptive",
            of(Solved, "odeint", method="dopri5", rtol=1e-3, atol=1e-4),
            spirals,
            F.l1_loss,
        ),
        ("neural ODE, adjoint", of(Solved, "odeint_adjoint", method="rk4"), spirals, F.l1_loss),
    ),
    "torchcde": (("neural CDE", of(Controlled), controls, F.binary_cross_entropy_with_logits),),
    "stable_baselines3": (
        ("PPO, choices", policy("ActorCriticPolicy", CHOICES), advantages, policy_loss),
        ("PPO, directions", policy("ActorCriticPolicy", DIRECTIONS), moves, policy_loss),
        (
            "A2C, one trunk",
            policy("ActorCriticPolicy", CHOICES, net_arch=[64, 64]),
            advantages,
            policy_loss,
        ),
        (
            "PPO, state-dependent noise",
            policy("ActorCriticPolicy", DIRECTIONS, use_sde=True),
            moves,
            policy_loss,
        ),
    ),
}

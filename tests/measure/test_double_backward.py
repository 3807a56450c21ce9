"""Losses that are made of gradients: what they change is weights, not the outputs of layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from pytest_gradhealth import probe


class Critic(nn.Module):
    """A critic with a gradient penalty (Gulrajani et al. 2017)."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 64), activation, nn.Linear(64, 1))

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        middle = ((real + fake) / 2).requires_grad_()
        (slope,) = torch.autograd.grad(self.body(middle).sum(), middle, create_graph=True)
        gap: Tensor = self.body(fake).mean() - self.body(real).mean()
        penalty: Tensor = 10 * (slope.norm(dim=1) - 1).square().mean()
        return gap + penalty


class Potential(nn.Module):
    """Returns the forces of a potential."""

    def __init__(self, activation: nn.Module, *, cut: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(16, 64), activation, nn.Linear(64, 64), activation, nn.Linear(64, 1)
        )
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.body(x).sum(), x, create_graph=True)
        return -slope.detach() if self.cut else -slope


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("activation", [nn.LeakyReLU(0.2), nn.ReLU(), nn.Tanh()], ids=str)
def test_a_critic_with_a_gradient_penalty_is_healthy(activation: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    diagnosis = probe(Critic(activation), (torch.randn(32, 16) + 1, torch.randn(32, 16)))
    assert diagnosis.verdict == "healthy", diagnosis


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(), nn.SiLU()], ids=str)
def test_forces_do_not_fail(activation: nn.Module) -> None:
    torch.manual_seed(0)
    model = Potential(activation)
    diagnosis = probe(model, torch.randn(32, 16), torch.randn(32, 16), loss=mse_loss)
    # The last bias is a constant of the potential: the loss does not depend on it.
    assert {f.code for f in diagnosis.findings if f.severity != "info"} == {"GH405"}
    assert diagnosis.verdict == "warning"


def test_zero_weights_behind_a_zero_path_still_fail() -> None:
    """Nothing gets round a path of zeros that nothing else leads to either."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    nn.init.constant_(model.get_parameter("0.bias"), -1e3)
    diagnosis = probe(model, torch.randn(8, 16), torch.arange(8) % 4, loss=cross_entropy)
    assert diagnosis.verdict == "failure"


def test_layers_that_only_the_loss_calls_are_told_of() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.deep = nn.Linear(16, 16), nn.Linear(16, 16)
            self.head = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.stem(x)
            return out

    model = Encoder()
    diagnosis = probe(
        model,
        torch.randn(8, 16),
        torch.arange(8) % 4,
        loss=lambda out, y: cross_entropy(model.head(model.deep(out)), y),
    )
    assert [f.message for f in diagnosis.of(["GH101"]) if f.severity == "not judged"] == [
        "nothing to judge: 2 layers (deep and head) get a gradient without being called in the"
        " forward (in the loss, or by their weights alone?)"
    ]

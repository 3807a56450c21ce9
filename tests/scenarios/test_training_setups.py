"""How people train: odd setups that learn are healthy, ones that do not are told.

Each is asked all that may be asked of it, and whether it learns its batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import LBFGS, SGD, Adagrad, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import LambdaLR, LinearLR, OneCycleLR

from pytest_gradhealth import probe
from tests.helpers.optimizers import Layerwise, LookAhead, Sharpness

CE = F.cross_entropy


def mlp(inputs: int = 20, outputs: int = 5, width: int = 32) -> nn.Sequential:
    hidden = [nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(width, outputs))


def normed() -> nn.Sequential:
    layers = [nn.Linear(20, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32)]
    return nn.Sequential(*layers, nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 5))


def classes(examples: int = 64) -> tuple[Tensor, Any]:
    x = torch.randn(examples, 20)
    return x, (x @ torch.randn(20, 5)).argmax(1)


def curve(examples: int = 64) -> tuple[Tensor, Any]:
    x = torch.randn(examples, 20)
    return x, torch.tanh(x[:, :1] + 0.3 * x[:, 1:2])


@dataclass(frozen=True)
class Setup:
    """A way to train; `optimizer` makes one, or several, for the model."""

    optimizer: Callable[[Any], Any]
    model: Callable[[], nn.Module] = mlp
    batch: Callable[[], tuple[Any, Any]] = classes
    loss: Callable[..., Tensor] = CE

    def complaints(self) -> list[str]:
        """The codes of rules that complain; a few steps are to lower the loss of the batch."""
        torch.manual_seed(0)
        model, (x, y) = self.model(), self.batch()
        optimizer = self.optimizer(model)
        found = probe(model, x, y, loss=self.loss, optimizer=optimizer, learn_steps=60)
        return [finding.code for finding in found.findings if finding.complains]


def sgd(rate: float, **options: Any) -> Callable[[Any], Any]:
    return lambda m: SGD(m.parameters(), lr=rate, **options)


def of(kind: Callable[..., Any], **options: Any) -> Callable[[Any], Any]:
    return lambda m: kind(m.parameters(), **options)


def scheduled(rate: float, schedule: Callable[[Any], Any], **options: Any) -> Callable[[Any], Any]:
    def made(model: Any) -> Any:
        optimizer = SGD(model.parameters(), lr=rate, **options)
        schedule(optimizer)
        return optimizer

    return made


def grouped(*rates: float) -> Callable[[Any], Any]:
    """A rate for each layer."""

    def made(model: Any) -> Any:
        layers = [layer for layer in model if isinstance(layer, nn.Linear)]
        pairs = zip(layers, rates, strict=True)
        return SGD([{"params": layer.parameters(), "lr": rate} for layer, rate in pairs])

    return made


def times(factor: float) -> Callable[..., Tensor]:
    return lambda outputs, targets: factor * CE(outputs, targets)


def critic_batch() -> tuple[Tensor, Tensor]:
    real, fake = torch.randn(64, 20), 0.5 * torch.randn(64, 20) + 1
    return torch.cat([real, fake]), torch.cat([torch.ones(64, 1), torch.zeros(64, 1)])


def against(critic: nn.Module) -> Callable[..., Tensor]:
    return lambda outputs: F.softplus(-critic(outputs)).mean()


def density(outputs: Tensor, targets: Tensor) -> Tensor:
    mean, log = outputs[:, :1], outputs[:, 1:]
    return (0.5 * ((targets - mean) / log.exp()) ** 2 + log).mean()


class Words(nn.Module):
    """The mean of embeddings, and a head; both may be at zero."""

    def __init__(self, *, dead: bool = False) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(100, 16), nn.Linear(16, 5)
        if dead:
            for weight in (self.words.weight, self.head.weight):
                nn.init.zeros_(weight)

    def forward(self, numbers: Tensor) -> Tensor:
        out: Tensor = self.head(self.words(numbers).mean(1))
        return out


def sentences() -> tuple[Tensor, Tensor]:
    return torch.randint(0, 100, (64, 6)), torch.randint(0, 5, (64,))


HEALTHY: dict[str, Setup] = {
    "a warm-up": Setup(scheduled(1.0, lambda o: LambdaLR(o, lambda k: min(1, (k + 1) / 100)))),
    "a warm-up from zero": Setup(
        scheduled(0.5, lambda o: LambdaLR(o, lambda k: min(1, k / 100)), momentum=0.9)
    ),
    "a warm-up from next to nothing": Setup(scheduled(0.5, lambda o: LinearLR(o, 1e-3))),
    "one cycle": Setup(scheduled(0.05, lambda o: OneCycleLR(o, 1.0, total_steps=100))),
    "layer by layer": Setup(of(Layerwise, lr=10.0)),
    "decay of AdamW": Setup(of(AdamW, lr=1e-3, weight_decay=1.0)),
    "decay of SGD": Setup(sgd(0.1, weight_decay=0.01)),
    "momentum of Nesterov": Setup(sgd(0.05, momentum=0.9, nesterov=True)),
    "tiny targets": Setup(
        of(Adam), partial(mlp, outputs=1), lambda: (curve()[0], 1e-3 * curve()[1]), F.mse_loss
    ),
    "a loss of ten thousandths": Setup(of(Adam), loss=times(1e-4)),
    "a loss of ten thousands": Setup(of(Adam), loss=times(1e4)),
    "a loss of ten thousands, and a rate for it": Setup(sgd(1e-5), loss=times(1e4)),
    "a sum": Setup(sgd(1e-3), loss=partial(CE, reduction="sum")),
    "a sum, Adam": Setup(of(Adam), loss=partial(CE, reduction="sum")),
    "a critic": Setup(
        of(Adam, lr=2e-4),
        partial(mlp, outputs=1),
        critic_batch,
        F.binary_cross_entropy_with_logits,
    ),
    "a critic without bound": Setup(
        of(RMSprop, lr=5e-5),
        partial(mlp, outputs=1),
        lambda: (critic_batch()[0], None),
        lambda o: o[64:].mean() - o[:64].mean(),
    ),
    "rates that lie apart": Setup(grouped(1e-5, 0.05, 0.5)),
    "a layer at next to nothing": Setup(grouped(1e-9, 0.05, 0.05)),
    "sharpness": Setup(lambda m: Sharpness(m.parameters(), SGD, lr=0.05)),
    "look ahead": Setup(lambda m: LookAhead(Adam(m.parameters()))),
    "batch norm at 1e-2": Setup(of(Adam, lr=1e-2), normed),
    "batch norm at 1": Setup(sgd(1.0), normed),
    "a line at 3": Setup(sgd(3.0), lambda: nn.Linear(20, 5)),
    "Adagrad": Setup(of(Adagrad)),
    "RMSprop": Setup(of(RMSprop, lr=1e-3)),
    "L-BFGS": Setup(of(LBFGS)),
    "a reward": Setup(sgd(0.05, maximize=True), loss=times(-1.0)),
    "a density": Setup(
        of(Adam), partial(mlp, outputs=2), lambda: (curve()[0], 0.01 * curve()[1]), density
    ),
    "words": Setup(sgd(0.5), Words, sentences),
}


def contradicting() -> tuple[Tensor, Tensor]:
    x, y = classes()
    return x.repeat(4, 1), torch.cat([(y + k) % 5 for k in range(4)])


def one_input() -> tuple[Tensor, Tensor]:
    x, y = classes()
    return x[:1].repeat(64, 1), y


SICK: dict[str, tuple[Setup, list[str]]] = {
    "SGD at 30": (Setup(sgd(30.0)), ["GH604"]),
    "SGD at 50, squares": (
        Setup(sgd(50.0), partial(mlp, outputs=1), curve, F.mse_loss),
        ["GH603", "GH604"],
    ),
    "Adam at 1000": (Setup(of(Adam, lr=1e3)), ["GH604", "GH603"]),
    "RMSprop at 10": (Setup(of(RMSprop, lr=10.0)), ["GH604", "GH603"]),
    "climbing": (Setup(sgd(0.1, maximize=True)), ["GH604"]),
    "climbing, Adam": (Setup(of(Adam, lr=1e-2, maximize=True)), ["GH604"]),
    "a loss of something else": (
        Setup(sgd(0.1), loss=lambda o, y: CE(o.detach() + 0 * o, y)),
        ["GH101", "GH401", "GH604"],
    ),
    "labels that contradict": (Setup(sgd(0.1), batch=contradicting), ["GH604"]),
    "one input": (Setup(sgd(0.1), batch=one_input), ["GH604"]),
    "words that are dead": (
        Setup(sgd(0.5), partial(Words, dead=True), sentences),
        ["GH101", "GH401", "GH604"],
    ),
    "a rate of next to nothing": (Setup(sgd(1e-9)), ["GH604"]),
    "a sum, and a rate for a mean": (
        Setup(
            sgd(0.1),
            partial(mlp, outputs=1, width=256),
            curve,
            partial(F.mse_loss, reduction="sum"),
        ),
        ["GH603", "GH604"],
    ),
    "a loss of ten thousands, and a rate for one": (
        Setup(sgd(0.1), loss=times(1e4)),
        ["GH603", "GH604"],
    ),
    "a group at 1000": (Setup(grouped(0.05, 0.05, 1e3)), ["GH603", "GH604"]),
    "decay of 10": (Setup(sgd(0.5, weight_decay=10.0)), ["GH604"]),
}


@pytest.mark.parametrize("setup", HEALTHY.values(), ids=list(HEALTHY))
def test_odd_ways_to_train_that_learn_are_healthy(setup: Setup) -> None:
    assert setup.complaints() == []


@pytest.mark.parametrize(("setup", "codes"), SICK.values(), ids=list(SICK))
def test_ways_to_train_that_do_not_learn_are_told(setup: Setup, codes: list[str]) -> None:
    assert setup.complaints() == codes


def test_both_players_of_a_pair_are_healthy() -> None:
    critic = mlp(outputs=1)
    pair = Setup(
        lambda m: [Adam(m.parameters(), lr=2e-4), Adam(critic.parameters(), lr=2e-4)],
        partial(mlp, 8, 20),
        lambda: (torch.randn(64, 8), None),
        against(critic),
    )
    assert pair.complaints() == []

"""The ground truth: whether training makes a network read digits, and with which optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from examples.study.corpus import Recipe, build

Digits = tuple[Tensor, Tensor]

#: Share of the training digits that a trained network reads, and below which none was learned.
LEARNED, FAILED = 0.8, 0.3
EXAMPLES = 500
#: Digits in a step.
BATCH = {"mlp": 64, "conv": 32}
#: How often as many steps a run gets once its loss has begun to fall.
PATIENCE = 6
#: Mean loss of the last steps below which it has; guessing has log(10) = 2.303.
FALLING = 2.275
WINDOW = 20

SGD_RATES = (0.1, 0.01, 0.3, 0.001)
ADAM_RATES = (1e-3, 1e-2, 1e-4)


def steps_of(recipe: Recipe) -> int:
    """Steps of a run; shallow convolutions see little of an image at once and learn slowly."""
    if recipe.kind == "mlp":
        return 300
    return 1500 if recipe.depth <= 12 else 400


@dataclass(frozen=True)
class Run:
    """One training: the mean loss of its last steps, the share of digits that it reads then."""

    optimizer: str
    lr: float
    steps: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Truth:
    """What training made of a network. Rates after the first that learned were not tried."""

    number: int
    runs: tuple[Run, ...]

    def best(self, *optimizers: str) -> float:
        """The highest accuracy with these optimizers (default: all)."""
        runs = [r for r in self.runs if r.optimizer in optimizers or not optimizers]
        return max((run.accuracy for run in runs), default=0.0)

    @property
    def label(self) -> str:
        """What trains it: "both", "sgd", "adam", "neither", or "partly" in between."""
        sgd, adam = self.best("SGD") >= LEARNED, self.best("Adam") >= LEARNED
        if sgd or adam:
            return "both" if sgd and adam else "sgd" if sgd else "adam"
        return "neither" if self.best() < FAILED else "partly"


def train_all(recipe: Recipe, digits: Digits) -> Truth:
    """Train a network with SGD (momentum 0.9) and Adam at several rates each."""
    sgd = partial(torch.optim.SGD, momentum=0.9, fused=True)
    adam = partial(torch.optim.Adam, fused=True)
    runs = [
        *_until_learned("SGD", sgd, SGD_RATES, recipe, digits),
        *_until_learned("Adam", adam, ADAM_RATES, recipe, digits),
    ]
    return Truth(recipe.number, tuple(runs))


def _until_learned(
    name: str,
    optimizer: Callable[..., torch.optim.Optimizer],
    rates: Iterable[float],
    recipe: Recipe,
    digits: Digits,
) -> Iterator[Run]:
    for rate in rates:
        run = train_once(name, optimizer, rate, recipe, digits)
        yield run
        if run.accuracy >= LEARNED:
            return


def train_once(
    name: str,
    optimizer: Callable[..., torch.optim.Optimizer],
    rate: float,
    recipe: Recipe,
    digits: Digits,
) -> Run:
    """Train one network at one rate, for as long as its loss may still fall."""
    model = build(recipe)
    stepper = optimizer(model.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(recipe.number)
    usual = steps_of(recipe)
    recent: list[float] = []
    step = 0
    while step < usual * PATIENCE:
        picked = torch.randint(len(digits[1]), (BATCH[recipe.kind],), generator=generator)
        stepper.zero_grad()
        loss = cross_entropy(model(digits[0][picked]), digits[1][picked])
        value = loss.item()
        recent = [*recent[1 - WINDOW :], value]
        step += 1
        if not math.isfinite(value):
            break
        loss.backward()  # type: ignore[no-untyped-call]
        stepper.step()
        mean = sum(recent) / len(recent)
        checked = step % WINDOW == 0
        if checked and mean < 0.7 and _accuracy(model, digits) >= LEARNED:
            break
        if step >= usual and not mean < FALLING:
            break
    mean = sum(recent) / len(recent)
    return Run(name, rate, step, mean, _accuracy(model, digits))


@torch.no_grad()
def _accuracy(model: nn.Module, digits: Digits) -> float:
    """On some of the training digits, normalised by the batch as in training.

    Whether a network generalises is another matter, and running statistics lag behind.
    """
    images, labels = digits[0][:EXAMPLES], digits[1][:EXAMPLES]
    return float((model(images).argmax(1) == labels).float().mean())

"""Sick networks: the message names a cure, and its code, applied by hand, is one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pytest_gradhealth import (
    CollapsedOutputError,
    DeadUnitsError,
    ExplodingOutputError,
    GradientHealthError,
    IdenticalUnitsError,
    SaturatedUnitsError,
    VanishingGradientError,
    assert_healthy,
    assert_no_exploding,
    assert_no_vanishing,
    built_in_remedies,
)
from pytest_gradhealth.assertions import verdict
from tests.helpers.nets import mlp
from tests.helpers.remedies import cures

pytest.importorskip("torchvision")

from examples import readme
from examples.mnist.digits import load_digits
from examples.mnist.models import DeepClassifier

IMAGES, LABELS = (part[:50] for part in load_digits())
SEEDS = range(2)
ADAM = partial(torch.optim.Adam, lr=1e-3, fused=True)


def under_a_seed(names: Iterable[str]) -> list[tuple[str, int]]:
    """Each network under one of the seeds, in turns."""
    return list(zip(names, itertools.cycle(SEEDS), strict=False))


def tiny_tanh() -> nn.Module:
    """Sixteen tanh layers with weights N(0, 0.02)."""
    model = mlp(nn.Tanh, hidden=16, width=128, inputs=784, classes=10)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
    return model


def glorot_relu() -> nn.Module:
    """Thirty-four ReLU layers with Glorot's weights, which are made for tanh."""
    model = mlp(nn.ReLU, hidden=34, width=128, inputs=784, classes=10)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


class SigmoidLeNet(nn.Module):
    """LeNet with six more layers: eight sigmoids in all."""

    def __init__(self) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(1, 6, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2)]
        convolutions += [nn.Conv2d(6, 16, 5), nn.Sigmoid(), nn.AvgPool2d(2), nn.Flatten()]
        self.features = nn.Sequential(*convolutions)
        layers: list[nn.Module] = []
        for inputs in (400, 120, 84, 84, 84, 84):
            layers += [nn.Linear(inputs, 120 if inputs == 400 else 84), nn.Sigmoid()]
        self.classifier = nn.Sequential(*layers, nn.Linear(84, 10))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits for images of shape (batch, 784)."""
        logits: Tensor = self.classifier(self.features(images.view(-1, 1, 28, 28)))
        return logits


#: With Adam, 34 Glorot layers learn, if slowly, and only get a warning.
SGD = partial(torch.optim.SGD, lr=0.1)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "tiny tanh": (tiny_tanh, {}),
    "Glorot ReLU": (glorot_relu, {"optimizer": SGD}),
    "sigmoid LeNet": (SigmoidLeNet, {}),
}


#: Those whose code the messages show where all are tried, which takes twice as long. A run of
#: pytest would ask its hooks instead.
SHOWN = (
    *("SELU", "LeakyReLU", "batch norm", "residual"),
    *("Xavier init", "unit-variance init", "orthogonal init"),
)


@pytest.fixture(autouse=True)
def few_remedies(_outside_pytest: None, monkeypatch: pytest.MonkeyPatch) -> None:
    few = tuple(remedy for remedy in built_in_remedies() if remedy.name in SHOWN)
    monkeypatch.setattr(verdict, "built_in_remedies", lambda: few)


def losses(model: nn.Module, optimizer: Callable[..., Any], steps: int = 20) -> Iterator[float]:
    stepper = optimizer(model.parameters())
    for _ in range(steps):
        stepper.zero_grad()
        loss = cross_entropy(model(IMAGES), LABELS)
        loss.backward()  # type: ignore[no-untyped-call]
        stepper.step()
        yield loss.item()


def trains_under_five_seeds(
    build: Callable[[], nn.Module],
    code: str,
    optimizer: Callable[..., Any],
    sick: float,
    steps: int = 20,
) -> bool:
    """Whether a cured network gets far below what the sick one does, or ends well below that."""
    for seed in range(5):
        torch.manual_seed(seed)
        space: dict[str, Any] = {"model": build()}
        exec(code, space)
        loss = sick
        for step, loss in enumerate(losses(space["model"], optimizer, steps), 1):
            if loss < (0.8 if step >= 20 else 0.5) * sick and step >= 10:
                break
        if not loss < 0.9 * sick:
            return False
    return True


@pytest.mark.parametrize(("name", "seed"), under_a_seed(NETWORKS))
def test_the_code_in_the_message_cures(name: str, seed: int) -> None:
    build, options = NETWORKS[name]
    options = {"loss": cross_entropy, **options}
    torch.manual_seed(seed)
    model = build()
    with pytest.raises(VanishingGradientError) as caught:
        assert_no_vanishing(model, IMAGES, LABELS, **options, remedy_budget=60)
    found = cures(str(caught.value))
    assert found
    assert caught.value.diagnosis is not None
    assert next(iter(found)) == caught.value.diagnosis.treatments[0].remedy
    optimizer = options.get("optimizer", ADAM)
    sick = min(losses(model, optimizer))
    for code in found.values():
        torch.manual_seed(seed)
        space: dict[str, Any] = {"model": build()}
        exec(code, space)
        cured = space["model"]
        assert_no_vanishing(cured, IMAGES, LABELS, **options)
        assert_no_exploding(cured, IMAGES, LABELS, **options)
        assert trains_under_five_seeds(build, code, optimizer, sick)


def test_the_code_that_the_quickstart_shows_cures_its_network() -> None:
    shown = cures(readme.block("failure"))
    build = partial(DeepClassifier, nn.Sigmoid)
    sick = min(losses(build(), ADAM, 5))
    assert len(shown) > 1
    for name, code in shown.items():
        assert trains_under_five_seeds(build, code, ADAM, sick, steps=40), name


def test_every_cure_that_a_page_prints_is_one_of_those() -> None:
    shown = cures(readme.block("failure"))
    printed = {page.name: cures(page.read_text("utf-8")) for page in readme.pages()}
    assert {name: len(found) for name, found in printed.items() if found} == {
        "README.md": 1,
        "quickstart.md": len(shown),
    }
    for found in printed.values():
        assert found.items() <= shown.items()


def network(
    activation: Callable[[], nn.Module] = nn.ReLU,
    *,
    weight: Callable[[Tensor], object] | None = None,
    bias: float | None = None,
) -> nn.Module:
    """Three hidden layers on digits, with weights and biases set."""
    model = mlp(activation, hidden=3, width=64, inputs=784, classes=10)
    for layer in model:
        if isinstance(layer, nn.Linear) and weight is not None:
            weight(layer.weight)
        if isinstance(layer, nn.Linear) and bias is not None and layer.out_features == 64:
            nn.init.constant_(layer.bias, bias)
    return model


def nearly_dead() -> nn.Module:
    """Two of 64 units live in the second layer."""
    model: Any = network()
    with torch.no_grad():
        model[2].bias[:62] = -10.0
    return model  # type: ignore[no-any-return]


#: What fails another rule than that on vanishing gradients, and which.
OTHERS: dict[str, tuple[Callable[[], nn.Module], type[GradientHealthError], str]] = {
    "N(0, 1)": (partial(network, weight=nn.init.normal_), ExplodingOutputError, "GH203"),
    "two live units": (nearly_dead, DeadUnitsError, "GH402"),
    "N(0, 100)": (
        partial(network, nn.Tanh, weight=partial(nn.init.normal_, std=100.0)),
        SaturatedUnitsError,
        "GH403",
    ),
    "deep sigmoids": (
        partial(mlp, nn.Sigmoid, hidden=10, width=64, inputs=784, classes=10),
        CollapsedOutputError,
        "GH404",
    ),
    "constant weights": (
        partial(network, weight=partial(nn.init.constant_, val=0.01), bias=0.0),
        IdenticalUnitsError,
        "GH406",
    ),
}


@pytest.mark.parametrize(("name", "seed"), under_a_seed(OTHERS))
def test_the_code_in_the_message_cures_what_else_fails(name: str, seed: int) -> None:
    build, error, code = OTHERS[name]
    torch.manual_seed(seed)
    options: dict[str, Any] = {"loss": cross_entropy, "select": [code]}
    with pytest.raises(error) as caught:
        assert_healthy(model := build(), IMAGES, LABELS, **options, remedy_budget=60)
    found = cures(str(caught.value))
    assert found
    sick = min(losses(model, ADAM, 60))
    for code in found.values():
        torch.manual_seed(seed)
        space: dict[str, Any] = {"model": build()}
        exec(code, space)
        assert_healthy(space["model"], IMAGES, LABELS, loss=cross_entropy)
        assert trains_under_five_seeds(build, code, ADAM, sick, steps=60)

"""The remedies by name, models to apply them to, and what comes of them."""

from __future__ import annotations

import copy
import itertools
import re
import textwrap
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pytest_gradhealth import Patient, Remedy, built_in_remedies
from tests.helpers.nets import mlp

BY_NAME = {remedy.name: remedy for remedy in built_in_remedies()}
#: Those that change the layers of a model, and not how it is trained or what it is given.
CHANGING = [
    remedy
    for remedy in built_in_remedies()
    if remedy.family
    not in ("clipping", "regularisation", "recurrence", "inputs", "output", "initial bias")
]


class Branches(nn.Module):
    """A custom forward with functions for activations, and blocks in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(20, 16)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(3))
        self.gate = nn.Linear(16, 16, bias=False)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (batch, 5)."""
        x = torch.sigmoid(self.stem(x))
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(torch.relu(self.gate(x)))
        return out


def convolutional() -> nn.Module:
    features = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.Sigmoid(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Sigmoid(),
        nn.Conv2d(4, 8, 3, stride=2, padding=1),
        nn.Sigmoid(),
    )
    return nn.Sequential(
        features, nn.Flatten(), nn.Linear(8 * 16, 12), nn.Sigmoid(), nn.Linear(12, 5)
    )


def sigmoids() -> nn.Module:
    return mlp(nn.Sigmoid, hidden=6)


def with_output() -> nn.Module:
    return nn.Sequential(*mlp(nn.Sigmoid, hidden=4, classes=1), nn.Sigmoid())


def without_biases() -> nn.Module:
    return nn.Sequential(
        nn.Linear(20, 8, bias=False), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 5)
    )


def tapering() -> nn.Module:
    sizes = (20, 16, 16, 8, 5)
    layers = [(nn.Linear(a, b), nn.Sigmoid()) for a, b in itertools.pairwise(sizes)]
    return nn.Sequential(*itertools.chain(*layers), nn.Linear(5, 5))


def sequences() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))


class Attend(nn.Module):
    """Self-attention, whose projection of the output is never called as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return what is attended to, of the shape of `x`."""
        out: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return out


def attentive() -> nn.Module:
    blocks = [nn.Sequential(Attend(), nn.Linear(8, 8), nn.Tanh()) for _ in range(2)]
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), *blocks, nn.Linear(8, 2))


class OwnLinear(nn.Linear):
    """A linear layer by another name."""


def derived() -> nn.Module:
    """Layers, and activations, of which some derive from the classes of others."""
    return nn.Sequential(
        *(OwnLinear(20, 48), nn.Tanh(), nn.Linear(48, 48), nn.Hardtanh()),
        *(OwnLinear(48, 48), nn.ReLU6(), nn.Linear(48, 5)),
    )


FLAT, IMAGE, SEQUENCE = torch.randn(64, 20), torch.randn(16, 1, 8, 8), torch.randn(8, 5, 6)
MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "sigmoids": (sigmoids, FLAT),
    "with output": (with_output, FLAT),
    "without biases": (without_biases, FLAT),
    "tapering": (tapering, FLAT),
    "branches": (Branches, FLAT),
    "convolutional": (convolutional, IMAGE),
    "sequences": (sequences, SEQUENCE),
    "attentive": (attentive, SEQUENCE),
    "derived": (derived, FLAT),
}


def treated(remedy: Remedy, model: nn.Module, inputs: Any) -> tuple[Patient, str]:
    torch.manual_seed(7)
    patient = Patient(copy.deepcopy(model), inputs)
    code = remedy.change(patient) or remedy.code
    return patient, code


def layers(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]


def architecture(model: nn.Module) -> list[tuple[str, list[tuple[int, ...]]]]:
    """Types of the innermost modules and the shapes of what they hold, in order."""
    return [
        (type(m).__name__, [tuple(p.shape) for p in m.parameters()])
        for m in model.modules()
        if not any(m.children()) and not isinstance(m, nn.Identity)
    ]


def cures(message: str) -> dict[str, str]:
    """The code in a message, by the name of the remedy."""
    blocks = re.findall(r"^(?:write|or) \((.+?)\):\n((?:    .*\n?)+)", message, re.MULTILINE)
    return {name: textwrap.dedent(code) for name, code in blocks}

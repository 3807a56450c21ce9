"""A scratch project with a module of nets, in which the gate is run as its users run it."""

from __future__ import annotations

import pytest

NETS = """
import torch
from torch import nn
from torch.nn.functional import cross_entropy

X = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
Y = torch.arange(16) % 4
BATCH = {"inputs": X, "targets": Y, "loss": cross_entropy}


def net(activation=nn.ReLU, layers=4):
    torch.manual_seed(0)
    parts = []
    for _ in range(layers):
        parts += [nn.Linear(8, 8), activation()]
    return nn.Sequential(*parts, nn.Linear(8, 4))
"""


def run(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    return pytester.runpytest("-p", "no:cacheprovider", *options)


def damage(pytester: pytest.Pytester) -> None:
    """Swap the activation."""
    pytester.makepyfile(nets=NETS.replace("nn.ReLU", "nn.Sigmoid"))

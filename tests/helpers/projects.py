"""Scratch projects to run pytest in as users do, and what such a run says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo

import pytest_gradhealth

#: The module `nets` of the projects that keep baselines.
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


def damage(pytester: pytest.Pytester) -> None:
    """Swap the activation in `nets`."""
    pytester.makepyfile(nets=NETS.replace("nn.ReLU", "nn.Sigmoid"))


#: What inner runs load on first use has to outlive them: torch cannot be loaded twice.
LOADED = [torch._dynamo, *(getattr(pytest_gradhealth, name) for name in pytest_gradhealth.__all__)]

#: The module `networks` of the others.
NETWORKS = """
import torch
from torch import nn
from torch.nn.functional import cross_entropy


class Net(nn.Sequential):
    forwards = 0

    def forward(self, x):
        type(self).forwards += 1
        return super().forward(x)


def net(activation, hidden):
    generator = torch.Generator().manual_seed(1)
    layers = []
    for inputs in [6] + [16] * (hidden - 1):
        layers += [nn.Linear(inputs, 16), activation()]
    model = Net(*layers, nn.Linear(16, 3))
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.uniform_(-0.25, 0.25, generator=generator)
    return model


def healthy():
    return net(nn.ReLU, 2)


def sick():
    return net(nn.Sigmoid, 8)


x = torch.linspace(-1, 1, 48).reshape(8, 6)
y = torch.arange(8) % 3
"""

#: Test modules on `networks`, of one test that passes and of one that fails.
HEALTHY = """
from networks import healthy, x

def test_a(gradhealth):
    gradhealth.assert_no_vanishing(healthy(), x)
"""

SICK = """
from networks import sick, x

def test_a(gradhealth):
    gradhealth.assert_no_vanishing(sick(), x)
"""

#: The columns of the report in the terminal.
COLUMNS = [
    *("verdict", "ratio", "rate", "profile", "layers", "seeds"),
    *("device", "ms", "model", "test"),
]


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run the inner tests."""
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments)


def rows(result: pytest.RunResult) -> list[dict[str, str]]:
    """The rows of the report by column, without the one that is never the same twice."""
    lines = result.outlines
    starts = [i for i, line in enumerate(lines) if line.split() == COLUMNS]
    assert len(starts) == 1, result.stdout.str()
    table = lines[starts[0] + 1 : lines.index("", starts[0])]
    cells = (re.split(r"(?<!^not) +", line) for line in table)  # "not judged" is one
    found = [dict(zip(COLUMNS, row, strict=True)) for row in cells]
    assert all(row.pop("ms").isdecimal() for row in found)
    return found


def probed(result: pytest.RunResult) -> list[str]:
    """The tests in the report, by name alone."""
    return sorted(row["test"].rpartition("::")[2] for row in rows(result))


def text_of(result: pytest.RunResult) -> str:
    return result.stdout.str() + result.stderr.str()


def folders(pytester: pytest.Pytester, **files: str) -> None:
    """Write files; two underscores in a name are a folder's end."""
    for name, text in files.items():
        path = pytester.path / (name.replace("__", "/") + ".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


#: Test modules on `nets`, of one test and of two, and where their baselines are kept.
ONE = """
from nets import BATCH, net

def test_net(gradhealth):
    gradhealth.assert_matches_baseline(net(), **BATCH)
"""
TWO = (
    ONE
    + """
def test_deep(gradhealth):
    gradhealth.assert_matches_baseline(net(layers=6), **BATCH)
"""
)
FILE = "__gradhealth__/test_models.json"


def kept(file: str = FILE) -> dict[str, Any]:
    """The entries of a file of baselines, by key."""
    entries: dict[str, Any] = json.loads(Path(file).read_text())["entries"]
    return entries


#: A test module on `networks` with a test of every verdict.
SUITE = """
import pytest
from pytest_gradhealth import VanishingGradientError
from networks import cross_entropy, healthy, net, nn, sick, x, y

def test_healthy(gradhealth):
    model = healthy()
    gradhealth.assert_no_vanishing(model, x)
    gradhealth.assert_no_exploding(model, x)
    gradhealth.assert_healthy(model, x)

def test_two(gradhealth):
    gradhealth.assert_healthy(healthy, x, seeds=3)
    gradhealth.assert_healthy(healthy(), x)

def test_sick(gradhealth):
    gradhealth.assert_no_vanishing(sick(), x, y, loss=cross_entropy)

@pytest.mark.xfail(raises=VanishingGradientError, strict=True)
def test_known(gradhealth):
    gradhealth.assert_no_vanishing(sick(), x, y, loss=cross_entropy)

def test_warns(gradhealth):
    gradhealth.assert_no_vanishing(net(nn.Sigmoid, 4), x, warn_min_ratio=0.5)

def test_without():
    pass
"""

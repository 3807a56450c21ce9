"""An attention block is written anew in a repository: right in eager mode, wrong when compiled."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tests.helpers.projects import run

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

OLD = """
import torch
from torch import nn


class Attention(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        scores = self.query(x) @ self.key(x).mT / x.shape[-1] ** 0.5
        return x + self.out(scores.softmax(-1) @ self.value(x))
"""
#: Fused, and with a scale that only compiled code gets wrong.
NEW = """
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


class Attention(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        scale = 1.0 if torch.compiler.is_compiling() else x.shape[-1] ** -0.5
        heads = [part(x)[:, None] for part in (self.query, self.key, self.value)]
        return x + self.out(scaled_dot_product_attention(*heads, scale=scale)[:, 0])
"""
TESTS = """
import importlib.util
import subprocess

import torch
from attention import Attention

X = torch.randn(4, 6, 16, generator=torch.Generator().manual_seed(0))


def committed():
    text = subprocess.run(
        ["git", "show", "HEAD:attention.py"], capture_output=True, text=True, check=True
    ).stdout
    names = {}
    exec(text, names)
    return names["Attention"]()


def loss(outputs):
    return outputs.square().mean()


def test_as_committed(gradhealth):
    gradhealth.assert_same_gradients(committed(), Attention(), X, loss=loss)


def test_compiled(gradhealth):
    gradhealth.assert_same_gradients(Attention(), X, loss=loss, via="compile", backend="aot_eager")
"""


@pytest.fixture(autouse=True)
def _compiler() -> None:
    """Load the compiler: it cannot be loaded twice, and inner runs forget what they load."""
    compiled = torch.compile(torch.nn.Linear(1, 1), backend="aot_eager")
    compiled(torch.ones(1)).sum().backward()


def test_the_refactoring_passes_in_eager_mode_and_its_compiled_form_is_told(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(attention=OLD, test_attention=TESTS)
    mail = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "attention.py"], [*mail, "commit", "-qm", "attention"]):
        subprocess.run(["git", *command], cwd=pytester.path, check=True)
    run(pytester).assert_outcomes(passed=2)

    Path("attention.py").write_text(NEW)
    result = run(pytester)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.re_match_lines(
        [
            r"E +pytest_gradhealth.DifferentGradientsError: Attention compiled by aot_eager differs"
            r" from Attention: output 0 .* off by .*%",
            r"E +compared in float32: outputs, loss and the gradients of 8 parameters",
            r"E +compiled code does not show its layers",
            r"E +cause:  the forward is another one from output 0 on",
            r'E +try:    backend="aot_eager", then "eager": the first that agrees leaves out',
        ]
    )
    assert "FAILED test_attention.py::test_compiled" in result.stdout.str()

    wrong = "1.0 if torch.compiler.is_compiling() else x.shape[-1] ** -0.5"
    Path("attention.py").write_text(NEW.replace(wrong, "x.shape[-1] ** -0.5"))
    run(pytester).assert_outcomes(passed=2)

"""The test file of a spec checks the same, and passes as it is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_gradhealth.specs.plan import Given, Planner
from pytest_gradhealth.specs.spec import parse
from pytest_gradhealth.specs.written import Written, file_text
from tests.helpers.libraries import library
from tests.specs.conftest import Written as Files

NETS = """
import torch
from torch import nn
from torch.nn.functional import cross_entropy

def net(width=8):
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3))

class Small(nn.Sequential):
    class Inner(nn.Linear):
        def __init__(self):
            super().__init__(6, 3)

def batch():
    return torch.randn(5, 6), torch.arange(5) % 3

def inputs():
    return torch.randn(5, 6)

def loss(outputs, targets):
    return cross_entropy(outputs, targets)

def size(outputs):
    return outputs.square().mean()
"""


def file_of(
    *specs: str,
    inputs: tuple[str, ...] = (),
    loss: str = "",
    beside: Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> str:
    here = Path.cwd()
    planners = [Planner(parse(s), Given(inputs, loss), [here], beside or here) for s in specs]
    plans = zip(specs, planners, strict=True)
    return file_text([Written(spec, planner.plan(), settings or {}) for spec, planner in plans])


def test_a_factory_in_a_module(written: Files) -> None:
    written(nets=NETS)
    assert file_of("nets:net") == (
        '"""The gradients of nets:net."""\n'
        "\n"
        "import torch\n"
        "from nets import net\n"
        "from torch.nn.functional import cross_entropy\n"
        "\n"
        "\n"
        "def test_net(gradhealth):\n"
        "    torch.manual_seed(0)\n"
        "    inputs = torch.randn(8, 6)\n"
        "    targets = torch.randint(3, (8,))\n"
        "    gradhealth.assert_healthy(net, inputs, targets, loss=cross_entropy)\n"
    )


def test_names_that_are_taken_are_not_given_again(written: Files) -> None:
    written(nets=NETS)
    text = file_of("nets:net", inputs=("nets.py:inputs",), loss="nets:size")
    assert "    x = inputs()\n    gradhealth.assert_healthy(net, x, loss=size)\n" in text


def test_files_of_all_kinds_pass_as_they_are(written: Files) -> None:
    """With names that there are twice, from a folder beside, for a Python that has seen none."""
    folder = written(
        **{"nets": NETS, "scripts/other": NETS, "scripts/my-nets": NETS, "s/json": NETS}
    )
    many = file_of(
        *("nets:net(4)", "nets:Small.Inner", "scripts/other.py:net", "scripts/my-nets.py:net"),
        "s/json.py:net",
        inputs=("nets:batch",),
        loss="scripts/other.py:loss",
        beside=folder / "tests",
        settings={"min_ratio": 1e-4},
    )
    assert "@pytest.mark.gradhealth(min_ratio=0.0001)" in many
    for name in ("net", "small_inner", "net_2", "net_3", "net_4"):
        assert f"def test_{name}(gradhealth):" in many
    sized = file_of("nets:net", inputs=("nets.py:inputs",), loss="nets:size", beside=folder / "a")
    written(**{"tests/test_many": many, "a/test_sized": sized})
    written(**{"test_one": file_of("nets:net"), "pytest.ini": ""})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=."],
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "7 passed" in done.stdout, many + sized + done.stdout + done.stderr


def test_libraries() -> None:
    library("timm")
    library("torchvision")
    library("transformers")
    text = file_of("timm:test_resnet", "torchvision:resnet18(num_classes=4)", "hf:gpt2")
    for line in (
        "import timm",
        "from torchvision.models import get_model",
        "from transformers import GPT2Config, GPT2LMHeadModel",
        '        lambda: get_model("resnet18", num_classes=4),',
        '    inputs = {"input_ids": torch.randint(4, 256, (4, 32)), '
        '"labels": torch.randint(4, 256, (4, 32))}',
    ):
        assert line in text.splitlines(), text
    compile(text, "test_models.py", "exec")
    assert max(map(len, text.splitlines())) < 170


@pytest.mark.parametrize("text", ['nets:net("\\"\\"\\"\\n")', "nets:net('a')"])
def test_a_spec_with_quotes_is_no_end_of_the_docstring(written: Files, text: str) -> None:
    written(nets=NETS.replace("(width=8)", "(text='', width=8)"))
    compile(file_of(text), "test_models.py", "exec")

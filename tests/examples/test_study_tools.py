"""Tools that the study runs: what is asked of them, and what is made of their answers."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from examples.study.faults.losses import scaled_loss
from examples.study.faults.parts import tower
from examples.study.network import Network
from examples.study.report.tools import installed_tools
from examples.study.tools import TOOLS, defaultplusplus, guardtower, numguard, preflight, stage
from examples.study.tools.tool import NotApplicableError, Said
from tests.helpers.nets import batch, mlp

NET = Network("net", "nets", mlp, batch, F.cross_entropy)
BY_NAME = {tool.name: tool for tool in TOOLS}


def heard(monkeypatch: pytest.MonkeyPatch, *findings: Any) -> list[dict[str, Any]]:
    """Put a guardtower in place that says this, and return what it is asked."""
    asked: list[dict[str, Any]] = []

    def audit(model: nn.Module, step: Callable[[], torch.Tensor], *, inputs: Any) -> Any:
        asked.append({"training": model.training, "loss": step().item(), "inputs": inputs})
        errors = [finding for finding in findings if finding.severity == 30]
        return SimpleNamespace(findings=findings, errors=errors)

    fake = ModuleType("guardtower")
    fake.audit = audit  # type: ignore[attr-defined]
    fake.Severity = SimpleNamespace(ERROR=30, WARN=20)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "guardtower", fake)
    return asked


def finding(check: str, severity: int, message: str = "") -> SimpleNamespace:
    return SimpleNamespace(check=check, severity=severity, message=message)


def test_guardtower_is_asked_in_train_mode_with_the_scaled_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = heard(monkeypatch, finding("loss", 30), finding("frozen", 10), finding("relu", 20))
    assert guardtower.run(NET, 0, 1.0) == [Said("loss", "error"), Said("relu", "warning")]
    guardtower.run(NET, 0, 4.0)
    assert asked[1]["loss"] == pytest.approx(4 * asked[0]["loss"])
    assert asked[0]["training"]
    (inputs,) = asked[0]["inputs"]
    assert inputs.is_floating_point()


def test_a_step_that_its_hooks_break_is_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    heard(monkeypatch, finding("loss", 30, "step_fn raised RuntimeError: a view"))
    with pytest.raises(NotApplicableError, match=r"^step_fn raised RuntimeError: a view"):
        guardtower.run(NET, 0, 1.0)


def test_a_network_is_written_as_a_script_that_trains_it() -> None:
    net = replace(NET, build=partial(tower, (20, 8, 5), nn.ReLU, output=partial(nn.Softmax, -1)))
    text = preflight.script(net)
    ast.parse(text)
    assert "model = nn.Sequential(nn.Linear(in_features=20, out_features=8, bias=True)" in text
    assert "nn.Softmax(dim=-1))" in text
    assert "loss = F.cross_entropy(outputs, targets)" in text


def test_own_classes_and_losses_stand_in_the_script_as_written() -> None:
    own = preflight.script(replace(NET, build=Own, loss=partial(scaled_loss, factor=2.0)))
    ast.parse(own)
    assert "class Own(nn.Module):" in own
    assert "def scaled_loss(" in own
    assert "model = Own()" in own
    assert "outputs.loss" in preflight.script(replace(NET, loss=None))


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(20, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.layer(x)
        return outputs


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (torch.ones(4, dtype=torch.long), "it needs one array of floats"),
        ({"x": torch.ones(4)}, "it needs one array of floats"),
        (torch.ones(4, 5000), "it is large"),
    ],
)
def test_numguard_is_asked_about_small_networks_of_floats(
    monkeypatch: pytest.MonkeyPatch, inputs: Any, reason: str
) -> None:
    monkeypatch.setitem(sys.modules, "numguard", ModuleType("numguard"))
    with pytest.raises(NotApplicableError, match=reason):
        numguard.run(replace(NET, batch=lambda: (inputs, None)), 0, 1.0)


def test_what_is_no_transformer_of_hugging_face_is_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("defaultplusplus", "defaultplusplus.diagnosis", "defaultplusplus.processing"):
        module = ModuleType(name)
        for attribute in ("FeatureExtractor", "load_pretrained", "RuntimeNormalizer"):
            setattr(module, attribute, None)
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(NotApplicableError, match=r"^it watches transformers"):
        defaultplusplus.run(NET, 0, 1.0)


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_an_installed_tool_answers(tool: Any) -> None:
    if f"{tool.package}=={tool.version}" in stage.missing():
        pytest.skip(f"{tool.package} {tool.version} is not installed")
    if tool is defaultplusplus.TOOL:
        with pytest.raises(NotApplicableError, match=r"^it watches transformers"):
            tool.run(NET, 0, 1.0)
    else:
        assert tool.run(NET, 0, 1.0) == []


def test_a_tool_is_asked_on_each_scale_that_it_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, float]] = []

    def run(network: object, seed: int, scale: float) -> list[Said]:
        seen.append((seed, scale))
        if network is mlp:
            raise NotApplicableError("it is odd\nand more")
        if network is not NET:
            raise IndexError
        return [Said("a", "error")] if scale == 1e4 else []

    tool = replace(BY_NAME["guardtower"], name="mine", run=run)
    monkeypatch.setattr(stage, "TOOLS", (tool, replace(tool, name="once", scales=False)))
    monkeypatch.setattr(stage, "networks", lambda: {"lost:7": NET, "fault:x": mlp, "twin:x": batch})
    assert stage.ask("mine|lost:7") == {"said": [[], [], [["a", "error"]]]}
    assert stage.ask("once|lost:7") == {"said": [[]]}
    assert seen == [(7, 1.0), (7, 1e-4), (7, 1e4), (7, 1.0)]
    assert stage.ask("mine|fault:x") == {"not applicable": "it is odd"}
    assert stage.ask("mine|twin:x") == {"not applicable": "it breaks off with IndexError"}
    sets = ("lost:7", "fault:x", "twin:x")
    assert stage.keys() == [f"{name}|{of}" for name in ("mine", "once") for of in sets]


def test_the_table_counts_what_was_asked() -> None:
    asked: dict[str, dict[str, Any]] = {
        "guardtower|lost:1": {"said": [[["a", "error"]], [["a", "error"]], []]},
        "guardtower|lost:3": {"said": [[["a", "warning"]]] * 3},
        "guardtower|trained:5": {"not applicable": "it is large"},
        "guardtower|sick:x": {"said": [[]] * 3},
    }
    training = {"sick:x@0": {"runs": [{"accuracy": 0.1}]}}
    text = installed_tools(asked, training)
    lines = [line.split("|") for line in text.splitlines() if line[:1] == "|"]
    cells = {head.strip(): [cell.strip() for cell in row] for _, head, *row, _ in lines}
    assert cells["guardtower 0.1.0, errors"] == ["1 of 2", "", "", "", "", "0 of 1", "", "33%"]
    assert cells["guardtower 0.1.0, and warnings"][0] == "2 of 2"
    assert "- guardtower: `audit()` of one training step. Not asked: it is large (1)." in text

"""Networks are compared with themselves in each way, and what comes of it is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from examples.study import ways
from examples.study.network import Network


class OfOneFormat(nn.Module):
    """Has numbers of its own in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x @ torch.eye(4))
        return out


def test_each_way_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def network(build: Any) -> Network:
        return Network(
            "net", "nets", build, lambda: (torch.randn(4, 4), torch.arange(4) % 3), cross_entropy
        )

    given = {"plain": network(lambda: nn.Linear(4, 3)), "fixed": network(OfOneFormat)}
    monkeypatch.setattr(ways, "healthy", lambda: given)
    monkeypatch.setattr(ways, "sample", lambda: [*given])
    assert ways.compare("plain") == {"ways": [*ways.WAYS], "differs": {}, "refused": {}}
    fixed = ways.compare("fixed")
    assert fixed["ways"] == [name for name in ways.WAYS if "compile" not in name]
    assert fixed["differs"] == {}
    assert [*fixed["refused"]] == ["float64", "bfloat16"]


@pytest.mark.parametrize(
    ("said", "code", "row"),
    [
        (
            "b differs from a: the loss is off by 3% of itself\n\n...",
            1,
            "| 1          | 1        |",
        ),
        ("b differs from a: output 0 is nan, not 3 (L2 norm)", 0, "| 1          | 0        | 1  "),
    ],
)
def test_what_comes_of_it_is_counted(
    said: str, code: int, row: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found: dict[str, Any] = {
        "a": {"ways": [*ways.WAYS], "differs": {}, "refused": {"compile, aot_eager": "no graph"}},
        "b": {"ways": ["bfloat16"], "differs": {"bfloat16": said}, "refused": {}},
    }
    monkeypatch.setattr(ways, "sample", lambda: [*found])
    monkeypatch.setattr(ways, "complete", lambda *_, **__: found)
    monkeypatch.setattr(ways, "WRITTEN", tmp_path / "WAYS.md")
    monkeypatch.setattr("sys.argv", ["ways"])
    assert ways.main() == code
    text = (tmp_path / "WAYS.md").read_text()
    assert f"| bfloat16           {row}" in text
    assert "- compile, aot_eager, cannot be compared: a (no graph)" in text


def test_the_sample_has_each_family() -> None:
    assert {name.partition(":")[0] for name in ways.sample()} >= {"timm", "transformers"}

"""What is said with estimates and without is compared, and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from examples.study import sampling
from examples.study.network import Network


def network(size: int) -> Network:
    return Network(
        "net",
        "nets",
        lambda: (
            nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
            if not size
            else nn.Sequential(
                nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * size**2, 3)
            )
        ),
        lambda: (torch.randn(4, 3, size or 4, size or 4), torch.arange(4) % 3),
        cross_entropy,
    )


def test_networks_with_large_tensors_are_probed_both_ways(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {"small": network(4), "large": network(96), "lazy": network(0)}
    monkeypatch.setattr(sampling, "networks", lambda: given)
    assert sampling.compare("small") == {"sampled": 0, "differs": [], "verdict": "healthy"}
    large = sampling.compare("large")
    assert large["sampled"] > 0
    assert (large["differs"], large["verdict"]) == ([], "healthy")
    assert "is a lazy parameter" in sampling.compare("lazy")["error"]


@pytest.mark.parametrize(("differs", "code"), [("verdict", 1), ("message", 0)])
def test_what_differs_is_counted_and_named(
    differs: str, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found: dict[str, Any] = {
        "a": {"sampled": 0, "differs": [], "verdict": "healthy"},
        "b": {"sampled": 3, "differs": [], "verdict": "healthy"},
        "c": {"sampled": 4, "differs": [differs], "verdict": "healthy"},
        "d": {"sampled": 0, "differs": [], "error": "cannot"},
    }
    monkeypatch.setattr(sampling, "networks", lambda: dict.fromkeys(found))
    monkeypatch.setattr(sampling, "complete", lambda *_, **__: found)
    monkeypatch.setattr(sampling, "WRITTEN", tmp_path / "SAMPLING.md")
    monkeypatch.setattr("sys.argv", ["sampling"])
    assert sampling.main() == code
    text = (tmp_path / "SAMPLING.md").read_text()
    assert "3 networks were probed, 2 of them with estimates (7 of single outputs)." in text
    assert f"| {differs} | 1 |" in text
    assert "They are c." in text

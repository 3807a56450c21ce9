"""Rates are held against what came of them, and the page counts that."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from examples.study import rates
from examples.study.journal import read
from examples.study.network import Network
from examples.study.report import rates as report
from examples.study.report.rates import Row, counted


def network() -> Network:
    return Network(
        "net",
        "nets",
        lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)),
        lambda: (torch.randn(30, 8), torch.arange(30) % 3),
        cross_entropy,
    )


def test_one_look_serves_all_rates_of_a_network() -> None:
    tried = {f"{rate:g}": partial(torch.optim.SGD, lr=rate) for rate in (1e-3, 1e3, 1e4)}
    said = rates.said_of(network(), tried, 0)["said"]
    assert [one["asked"] for one in said.values()] == [False, True, True]
    assert [one["severity"] for one in said.values()] == ["", "failure", "failure"]
    assert said["0.001"]["excess"] is None
    assert said["10000"]["excess"] == pytest.approx(10 * said["1000"]["excess"], rel=0.5)


def test_what_cannot_be_probed_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = Network("lazy", "nets", lambda: nn.LazyLinear(3), network().batch, cross_entropy)
    monkeypatch.setattr(rates, "healthy", lambda: {"lazy": lazy})
    assert "is a lazy parameter" in rates.probe_healthy("lazy")["error"]


def test_where_a_rate_leads_that_is_warned_of_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "healthy", lambda: {"net": network()})
    monkeypatch.setattr(rates, "USUAL", {"far": partial(torch.optim.SGD, lr=1e4)})
    found = rates.probe_healthy("net")["said"]["far"]
    assert found["severity"] == "failure"
    assert len(found["losses"]) == 2


def test_what_learned_is_counted_by_rate_and_verdict(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = [
        Row(0, "SGD", 0.1, 0.9, None, ""),
        Row(0, "SGD", 10.0, 0.1, 20.0, "failure"),
        Row(1, "SGD", 10.0, 0.5, 7.0, "warning"),
        Row(1, "Adam", 0.1, 0.85, 2.0, ""),
    ]
    assert counted(rows) == "2 / 1 / 1"
    usual = {"asked": False, "excess": None, "severity": ""}
    far = {"asked": True, "excess": 30.0, "severity": "failure", "losses": [2.0, 9e9]}
    healthy: dict[str, dict[str, Any]] = {
        "a": {"said": {"SGD": usual}},
        "b": {"said": {"SGD": far}},
        "c": {"error": "no"},
    }
    monkeypatch.setattr(report, "WRITTEN", tmp_path / "RATES.md")
    report.write(rows, healthy)
    text = (tmp_path / "RATES.md").read_text()
    lines = [line.split("|") for line in text.splitlines() if line[:1] == "|"]
    cells = {head.strip(): [cell.strip() for cell in row] for _, head, *row, _ in lines}
    assert cells["failure"] == ["0 / 0 / 1", "0 / 0 / 0", "0 / 0 / 0", "0 / 0 / 0"]
    assert cells["5 to 10"] == ["0 / 0 / 0", "0 / 1 / 0", "0 / 0 / 0", "0 / 0 / 0"]
    assert cells["SGD"] == ["2", "1", "1", "0", "1"]
    # A rate of 0.5 is critical for network 0: 0.1 is a fifth of that.
    assert cells["0.1 to 0.2"] == ["1 / 0 / 0", "0 / 0 / 0"]
    said = "- SGD, b: failure at x30; in 60 steps on its batch the loss goes from 2 to 9e+09"
    assert said in text


def test_the_page_is_what_the_journals_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = report.WRITTEN.read_text()
    _, random, healthy = (read(stage.journal) for stage in rates.STAGES)
    monkeypatch.setattr(report, "WRITTEN", tmp_path / "RATES.md")
    report.write([*rates.rows(random)], healthy)
    assert _but_the_machine((tmp_path / "RATES.md").read_text()) == _but_the_machine(known)


def _but_the_machine(text: str) -> str:
    return text.rpartition("\nPython ")[0]


def test_at_usual_rates_no_healthy_network_is_complained_of_that_stands_them() -> None:
    said = [
        (name, one)
        for record in read(rates.STAGES[2].journal).values()
        for name, one in record["said"].items()
    ]
    complaints = [(name, one) for name, one in said if one["severity"]]
    assert len(said) > 4 * 500
    assert len(complaints) < 20
    assert all(math.isnan(one["losses"][1]) for _, one in complaints)
    assert not [name for name, _ in complaints if "Adam" in name]

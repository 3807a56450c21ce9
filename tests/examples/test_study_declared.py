"""Rules that ask for something declared: their faults differ from the cures, and are found."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from examples.study.declared import stages
from examples.study.declared.faults import declared
from examples.study.journal import read
from examples.study.network import Network
from examples.study.report import rules as report
from examples.study.report.rates import Row
from tests.helpers.nets import batch, mlp

SAID = read(stages.DECLARED[0].journal)
#: Parts whose weights say nothing of having any.
UNSEEN = {
    *(f"{gate} gate detached" for gate in ("forget", "input", "output")),
    "expert in a stack that no router reaches",
}


@pytest.mark.parametrize("name", sorted(declared())[::4])
def test_what_is_found_is_found_again_and_its_cure_is_not(name: str) -> None:
    for side in stages.SIDES:
        again = stages.probe_declared(f"{side}:{name}@0")
        if side == "cured":
            assert again["verdict"] == "healthy"
        elif name not in UNSEEN:
            codes = [code for code, *_ in again.get("findings", ())]
            assert "error" in again or declared()[name].code in codes


def test_the_journal_is_of_these_faults_under_three_seeds() -> None:
    every = stages.keys()
    sides = {key for key in every if not key.startswith("healthy")}
    assert len(sides) == 3 * 2 * len(declared())
    assert sides <= SAID.keys()
    assert {key for key in SAID if not key.startswith("healthy")} <= sides
    wrong = [k for k in sides if k.startswith("cured") and SAID[k].get("verdict") != "healthy"]
    assert wrong == []


def test_no_healthy_architecture_fails_where_an_optimizer_and_a_factory_are_declared() -> None:
    healthy = {k: r for k, r in SAID.items() if k.startswith("healthy") and "error" not in r}
    assert [key for key, record in healthy.items() if record["verdict"] == "failure"] == []


def test_builds_and_forwards_are_counted_though_a_probe_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = Network("net", "nets", mlp, batch, torch.nn.functional.cross_entropy)
    monkeypatch.setattr(stages, "healthy", lambda: {"net": net})
    found = stages.probe_declared("healthy:net@0")
    assert (found["verdict"], found["builds"], found["forwards"]) == ("healthy", 1, 1)
    learned = stages.learn("healthy:net")
    assert learned["findings"] == []
    assert learned["forwards"] > 1


def test_the_table_counts_per_rule() -> None:
    name = "biases left out of the groups"
    found: dict[str, Any] = {"verdict": "failure", "findings": [["GH602", "failure", "0"]]}
    fine: dict[str, Any] = {"verdict": "healthy", "findings": [], "builds": 1, "forwards": 1}
    usual = {"asked": True, "excess": 9.0, "severity": "warning", "losses": [1.0, 2.0]}
    added = {
        "declared": {f"sick:{name}@0": found, f"cured:{name}@0": fine, "healthy:a@0": fine},
        "learning": {"sick:x": fine, "healthy:a": {**fine, "forwards": 7}},
        "rates-healthy": {"a": {"said": {"SGD": usual}}},
    }
    rows = [Row(0, "SGD", 1.0, 0.1, 20.0, "failure"), Row(0, "SGD", 0.1, 0.9, 2.0, "")]
    text = report.rules({"a@0": {"name": "a", "findings": []}}, {}, added, rows)
    lines = [line.split("|") for line in text.splitlines() if line[:1] == "|"]
    cells = {head.strip(): [cell.strip() for cell in row] for _, head, *row, _ in lines}
    assert cells["GH101 vanishing"][0].startswith("0 of 1 ")
    untrained = cells["GH602 untrained (Adam declared)"]
    assert [cell[:6] for cell in untrained[:1] + untrained[2:5]] == [
        "0 of 1",
        *["1 of 1"] * 2,
        "0 of 1",
    ]
    step = cells["GH603 step-too-long (RATES.md)"]
    assert (step[0][:6], step[1], step[2][:6], step[4][:6]) == ("1 of 1", "no", "1 of 1", "0 of 1")
    assert cells["GH604 unlearned (asked for)"][5] == "7 steps on average"

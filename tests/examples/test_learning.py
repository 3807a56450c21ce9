"""The tangent kernel in closed form; what became of batches is counted, and the page is theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from examples.study import learning
from examples.study.journal import read
from examples.study.network import Network
from examples.study.rates import trained
from examples.study.report import learning as report
from examples.study.tangent import residual


def test_what_is_left_of_a_line_in_closed_form() -> None:
    """One weight for each feature: the kernel is X X^T, with known values."""
    sizes = torch.tensor([1.0, 0.1, 0.01])
    inputs = torch.diag(sizes)
    model = nn.Linear(3, 1, bias=False)
    nn.init.zeros_(model.weight)
    targets = torch.tensor([[1.0], [-2.0], [1.0]])
    found = residual(model, inputs, targets, mse_loss)
    assert found["condition"] == pytest.approx(1e4, rel=1e-3)
    for steps, left in found["left"].items():
        rest = targets * ((1 - sizes**2) ** int(steps))[:, None]
        centred = (rest - rest.mean()).norm() / targets.norm()
        assert left == pytest.approx(float(centred), rel=1e-3)


def test_a_batch_is_learned_or_not_and_what_cannot_be_copied_says_so() -> None:
    def network(build: type[nn.Module] | None = None) -> Network:
        def made() -> nn.Module:
            return nn.LazyLinear(3) if build else nn.Linear(8, 3)

        batch = torch.randn(12, 8), torch.arange(12) % 3
        return Network("net", "nets", made, lambda: batch, cross_entropy)

    def still(parameters: object) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.0)  # type: ignore[arg-type]

    found = learning.said_of(network(), learning.DECLARED["momentum .1"], 0)
    assert (found["course"], found["severity"]) == ("learned", "info")
    stuck = learning.said_of(network(), still, 0)
    assert (stuck["course"], stuck["severity"], stuck["steps"]) == ("stuck", "failure", 20)
    assert "is a lazy parameter" in learning.said_of(network(nn.Module), None, 0)["error"]


def test_the_page_is_what_the_journals_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = report.WRITTEN.read_text()
    monkeypatch.setattr(report, "WRITTEN", tmp_path / "LEARNING.md")
    journals = {stage.name: read(stage.journal) for stage in learning.STAGES}
    report.write(journals, trained())
    written = (tmp_path / "LEARNING.md").read_text()
    assert written.rpartition("\nPython ")[0] == known.rpartition("\nPython ")[0]
    assert not [
        key for key, r in journals["learning-healthy"].items() if r.get("severity") == "failure"
    ]

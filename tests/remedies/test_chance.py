"""An initialisation cures nothing that any other draw of the weights would mend."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import probe, suggest
from pytest_gradhealth.remedies import initialisation, trial
from pytest_gradhealth.remedies.chance import REASON
from pytest_gradhealth.results.diagnosis import Treatment

X = torch.randn(32, 8, generator=torch.Generator().manual_seed(0)).abs()
Y = X.mean(1, keepdim=True)


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two initialisations are enough."""
    few = initialisation.ORTHOGONAL, initialisation.KAIMING
    monkeypatch.setattr(trial, "built_in_remedies", lambda: few)


def net(seed: int | None) -> nn.Sequential:
    """A net as torch draws it, from the numbers that are to come without a `seed`."""
    if seed is not None:
        torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1), nn.ReLU())


def is_dead(model: nn.Module) -> bool:
    with torch.no_grad():
        return not bool(model(X).any())


def unlucky() -> nn.Sequential:
    """A net as torch draws it whose one output is zero for all."""
    return next(model for model in map(net, range(100)) if is_dead(model))


def initialisations(model: nn.Module, y: Tensor = Y) -> list[Treatment]:
    diagnosis = probe(model, X, y, loss=nn.functional.mse_loss)
    assert diagnosis.verdict == "failure"
    return [*suggest(diagnosis, budget=60)]


def test_an_unlucky_draw_is_cured_by_no_initialisation() -> None:
    found = initialisations(unlucky())
    assert not [treatment for treatment in found if treatment.outcome == "cured"]
    told = {treatment.outcome for treatment in found if treatment.reason == REASON}
    assert told == {"better"}


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_what_was_not_drawn_so_is_not_by_chance(part: str) -> None:
    """Weights and biases that any draw of the same kind would be as bad as."""
    model = net(0)
    weight, bias = model[2].parameters()
    with torch.no_grad():
        if part == "weight":
            weight.copy_(-weight.abs() - 1)
        else:
            bias.fill_(-100.0)
    assert is_dead(model)
    assert not [t for t in initialisations(model) if t.reason == REASON]


def test_a_factory_draws_the_others() -> None:
    seed = next(seed for seed in range(100) if is_dead(net(seed)))
    diagnosis = probe(lambda: net(None), X, Y, loss=nn.functional.mse_loss, seeds=[seed])
    assert diagnosis.verdict == "failure"
    found = suggest(diagnosis, budget=60)
    assert not [treatment for treatment in found if treatment.outcome == "cured"]
    assert [treatment for treatment in found if treatment.reason == REASON]

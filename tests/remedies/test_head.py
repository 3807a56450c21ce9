"""What makes the output cannot be shut, and starts at the usual answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import CannotApplyError, Patient, probe, suggest
from pytest_gradhealth.remedies import trial
from tests.helpers.nets import mlp
from tests.helpers.remedies import BY_NAME, FLAT, sigmoids

Y = 2 + FLAT[:, :1].abs()


class Density(nn.Module):
    """Puts out what is never negative, by a function that it keeps."""

    def __init__(self, density: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.density, self.body = density, mlp(nn.ReLU, classes=1)
        nn.init.constant_(self.body[-1].bias, -3.0)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.density(self.body(x))


def shut() -> nn.Module:
    model = nn.Sequential(*mlp(nn.ReLU, classes=1), nn.ReLU())
    nn.init.constant_(model[-2].bias, -3.0)  # type: ignore[arg-type]
    return model


@pytest.mark.parametrize("build", [shut, Density, lambda: Density(torch.relu)])
@pytest.mark.parametrize("name", ["Softplus at the output", "LeakyReLU at the output"])
def test_a_shut_output_opens_and_trains_under_five_seeds(
    build: Callable[[], nn.Module], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "built_in_remedies", lambda: (BY_NAME[name],))
    torch.manual_seed(0)
    optimizer: Any = lambda parameters: torch.optim.Adam(parameters, lr=0.01)  # noqa: E731
    diagnosis = probe(build(), FLAT, Y, loss=F.mse_loss, optimizer=optimizer)
    (found,) = suggest(diagnosis, budget=60)
    assert found.outcome in ("cured", "better"), found
    for seed in range(5):
        torch.manual_seed(seed)
        space: dict[str, Any] = {"model": build()}
        exec(found.code, space)
        model = space["model"]
        stepper, losses = optimizer(model.parameters()), []
        for _ in range(60):
            stepper.zero_grad()
            loss = F.mse_loss(model(FLAT), Y)
            loss.backward()  # type: ignore[no-untyped-call]
            stepper.step()
            losses.append(loss.item())
        assert min(losses) < 0.8 * losses[0], (seed, losses)
        assert sum(isinstance(m, nn.ReLU) for m in model.modules()) == 3, "those inside stay"


class Metric(nn.Module):
    """Makes another metric of a comparison, as those of torchmetrics do."""

    __hash__ = nn.Module.__hash__

    def __eq__(self, other: object) -> Any:
        return Metric()


def test_what_is_equal_to_everything_stays() -> None:
    model = nn.Sequential(shut())
    model.metric = Metric()
    model.forward = lambda x: model[0](x)  # type: ignore[method-assign]
    BY_NAME["Softplus at the output"].change(Patient(model, FLAT))
    assert isinstance(model.metric, Metric)
    assert type(model[0][-1]) is nn.Softplus  # type: ignore[index]


def test_what_is_never_shut_has_its_reason() -> None:
    with pytest.raises(CannotApplyError) as caught:
        BY_NAME["Softplus at the output"].apply(mlp(), FLAT)
    assert str(caught.value) == "no nn.ReLU makes an output, and none is kept as an attribute"


def test_the_bias_is_that_of_the_best_answer() -> None:
    model = mlp(classes=3)
    patient = Patient(model, FLAT, answer=(0.5, -2.0, 1000.25))
    code = BY_NAME["initial bias"].change(patient)
    assert code == (
        "# once, where `model` has been built, before its optimizer is\n"
        "import torch\n"
        "with torch.no_grad():\n"
        "    model.get_submodule('6').bias.copy_(torch.tensor([0.5, -2, 1000]))"
    )
    assert patient.model.get_submodule("6").bias.tolist() == [0.5, -2.0, 1000.25]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("model", "answer", "reason"),
    [
        (sigmoids(), (), "the best answer for all examples is not known"),
        (
            nn.Sequential(mlp(classes=1), nn.Sigmoid()),
            (0.5,),
            "no single layer with a bias makes the output",
        ),
        (
            nn.Sequential(nn.Linear(20, 4, bias=False)),
            (0.5,) * 4,
            "no single layer with a bias makes the output",
        ),
        (
            mlp(classes=2),
            (0.5,) * 3,
            "its last bias has 2 numbers, the best answer 3, and at most 16 are set",
        ),
    ],
)
def test_where_no_bias_can_be_set(model: nn.Module, answer: tuple[float, ...], reason: str) -> None:
    with pytest.raises(CannotApplyError) as caught:
        BY_NAME["initial bias"].change(Patient(model, FLAT, answer=answer))
    assert str(caught.value) == reason


def test_targets_far_from_zero_are_met_by_the_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "built_in_remedies", lambda: (BY_NAME["initial bias"],))
    y = 1000 + FLAT[:, :1]
    torch.manual_seed(0)
    optimizer: Any = lambda parameters: torch.optim.SGD(parameters, lr=0.1)  # noqa: E731
    options: Any = {"loss": F.mse_loss, "optimizer": optimizer, "clip": math.inf}
    diagnosis = probe(mlp(nn.ReLU, classes=1), FLAT, y, **options)
    assert [f.code for f in diagnosis.of(["GH202"])] == ["GH202"]
    (found,) = suggest(diagnosis, budget=60)
    assert found.outcome == "cured", found
    assert "bias.copy_(torch.tensor([1000" in found.code or "[999" in found.code

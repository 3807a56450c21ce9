"""Re-entrant checkpoints hide the layers in them, and are seen through where something is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils import checkpoint

from pytest_gradhealth import Diagnosis, probe
from pytest_gradhealth.isolation.checkpoints import seen_through
from tests.helpers.findings import codes

X, Y = torch.randn(6, 4), torch.arange(6) % 3


def part() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 4))


def again(function: Callable[..., Any], *given: Any) -> Any:
    return checkpoint.checkpoint(function, *given, use_reentrant=True)


class Parts(nn.Module):
    def __init__(self, run: Callable[[nn.Module, Tensor], Tensor] = again) -> None:
        super().__init__()
        self.stem, self.parts = nn.Linear(4, 4), nn.ModuleList(part() for _ in range(3))
        self.head, self.run = nn.Linear(4, 3), run

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for each in self.parts:
            h = self.run(each, h)
        out: Tensor = self.head(h)
        return out


def gradients(model: nn.Module) -> list[Tensor]:
    torch.manual_seed(3)
    model.zero_grad()
    cross_entropy(model(X), Y).backward()  # type: ignore[no-untyped-call]
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_the_gradients_are_those_of_the_checkpoint() -> None:
    model = Parts()
    with seen_through():
        seen = gradients(model)
    own = gradients(model)
    assert len(seen) == len(own) == len([*model.parameters()])
    assert all(map(torch.equal, seen, own))


@pytest.mark.filterwarnings("ignore:None of the inputs")
@pytest.mark.parametrize("needed", [torch.no_grad, torch.enable_grad])
def test_what_passes_no_gradient_on_still_does_not(needed: Callable[[], torch.no_grad]) -> None:
    """Of inputs that need none, whatever the weights inside do."""
    with seen_through(), needed():
        assert not again(part(), X).requires_grad


def test_torch_is_as_it_was_whatever_happens() -> None:
    before = checkpoint.CheckpointFunction
    with pytest.raises(KeyError, match="False"), seen_through():
        raise KeyError(checkpoint.CheckpointFunction is before)
    assert checkpoint.CheckpointFunction is before


def test_somebodys_own_is_still_one() -> None:
    with seen_through():

        class Own(checkpoint.CheckpointFunction):
            pass

        x = torch.ones(2, requires_grad=True)
        y: Tensor = Own.apply(torch.tanh, True, x)
    assert y.grad_fn is not None
    assert y.grad_fn.name() == "OwnBackward"
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None


def test_a_healthy_model_is_left_as_it_is() -> None:
    diagnosis = probe(Parts(), X, Y, loss=cross_entropy)
    assert diagnosis.verdict == "healthy"
    assert [point.label for point in diagnosis.paths[0].points] == ["stem", "head"]


def sick(run: Callable[[nn.Module, Tensor], Tensor] = again) -> Diagnosis:
    model = Parts(run)
    with torch.no_grad():
        for name, parameter in model.parts.named_parameters():
            parameter.mul_(1e-2 if name.endswith("0.weight") else 1.0)
    return probe(model, X, Y, loss=cross_entropy, confirm_steps=0)


def test_where_the_gradient_goes_in_them_is_told() -> None:
    diagnosis = sick()
    assert codes(diagnosis) == ["GH101"]
    assert "parts.1.0" in [point.label for point in diagnosis.paths[0].points]


def kept_aside(part: nn.Module, h: Tensor) -> Tensor:
    """What runs inside, and is used outside as it came out of the run without a graph."""
    kept: list[Tensor] = []

    def inside(h: Tensor) -> Tensor:
        kept.append(part(h))
        return h * 1.0

    out: Tensor = again(inside, h)
    return out + kept[0]


CUT: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "kept aside": kept_aside,
    "in a dict": lambda part, h: again(lambda h: {"h": part(h)}, h)["h"],
    "in a list": lambda part, h: h + again(lambda h: [h * 1.0, [part(h)]], h)[1][0],
}


@pytest.mark.parametrize("way", CUT)
def test_what_the_real_ones_cut_off_stays_cut_off(way: str) -> None:
    """Their outputs need no gradient, which those of the other kind do."""
    diagnosis = probe(Parts(CUT[way]), X, Y, loss=cross_entropy, confirm_steps=0)
    assert "GH401" in codes(diagnosis)


def test_what_only_runs_in_the_real_ones_is_judged_by_them() -> None:
    class Begun(nn.Module):
        """Makes its scale in the first run: the second one saves other tensors."""

        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.begun = inner, False

        def forward(self, h: Tensor) -> Tensor:
            h = self.inner(h)
            if not self.begun:
                h = h * h.detach().std() / h.std()
                self.begun = True
            return h

    assert "GH101" in codes(sick(lambda part, h: again(Begun(part), h)))

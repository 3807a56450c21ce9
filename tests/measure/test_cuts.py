"""What cuts parameters off from the loss is named, where it is one thing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pytest_gradhealth.measure.cuts import cuts
from pytest_gradhealth.results.profile import Stop
from pytest_gradhealth.subject.subject import Subject


class Two(nn.Module):
    """Two layers, of which the first is called by a function."""

    def __init__(self, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.call = nn.Linear(4, 6), nn.Linear(6, 2), call

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.call(self.a, x))
        return out


def without(context: Callable[[], torch.no_grad]) -> Callable[[nn.Module, Tensor], Tensor]:
    def call(layer: nn.Module, x: Tensor) -> Tensor:
        with context():
            out: Tensor = layer(x)
        return out

    return call


def logged(layer: nn.Module, x: Tensor) -> Tensor:
    h: Tensor = layer(x)
    assert float(h.detach().mean()) < 99
    return (h > 0).float()


def of(call: Callable[[nn.Module, Tensor], Tensor]) -> tuple[Stop, ...]:
    subject = Subject(Two(call), torch.ones(8, 4), None, torch.sum, torch.device("cpu"))
    return cuts(subject, ["a.weight", "a.bias"], seed=0)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize(
    ("call", "op", "layer", "at"),
    [
        (lambda a, x: a(x).relu().detach(), "detach", "(output)", "in"),
        (lambda a, x: a(x).data, "data", "(output)", "in"),
        (lambda a, x: (a(x) > 0).float(), "gt", "(output)", "in"),
        (lambda a, x: F.one_hot(a(x).argmax(-1), 6).float(), "argmax", "(output)", "in"),
        (lambda a, x: torch.tensor(a(x).tolist()), "tolist", "(output)", "in"),
        (without(torch.no_grad), "no_grad", "a", ""),
        (lambda a, x: checkpoint(a, x, use_reentrant=True), "checkpoint", "a", ""),
    ],
    ids=["detach", "data", "comparison", "argmax", "numbers", "no_grad", "checkpoint"],
)
def test_what_cuts_a_layer_off(
    call: Callable[[nn.Module, Tensor], Tensor], op: str, layer: str, at: str
) -> None:
    (stop,) = of(call)
    assert (stop.op, stop.layer, stop.at) == (op, layer, at)
    assert sorted(stop.parameters) == ["a.bias", "a.weight"]


def test_of_two_things_none_is_named() -> None:
    assert of(logged) == ()


def test_what_is_not_cut_off_is_not_named() -> None:
    assert of(lambda a, x: a(x).relu()) == ()

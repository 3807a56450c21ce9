"""What cuts parameters off from the loss is named, where it is one thing."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributions, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.dlpack import from_dlpack

from pytest_gradhealth.measure.cuts import cuts
from pytest_gradhealth.results.stop import Stop
from pytest_gradhealth.subject.subject import Subject


class Two(nn.Module):
    """Two layers, of which the first is called by a function."""

    def __init__(self, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.call = nn.Linear(4, 6), nn.Linear(6, 2), call

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.call(self.a, x))
        return out


def without(context: Callable[[], Any]) -> Callable[[nn.Module, Tensor], Tensor]:
    def call(layer: nn.Module, x: Tensor) -> Tensor:
        with context():
            out: Tensor = layer(x)
        return out.clone()

    return call


class Marked(torch.autograd.Function):
    """Returns what it says has no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = (x > 0).float()
        ctx.mark_non_differentiable(y)
        return y


class Straight(torch.autograd.Function):
    """Rounds in the forward alone."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def part(layer: nn.Module, x: Tensor) -> Tensor:
    h: Tensor = layer(x)
    with torch.no_grad():
        return 2 * h.relu()


def written(layer: nn.Module, x: Tensor) -> Tensor:
    made = torch.zeros(8, 6)
    made[:, :3].copy_(layer(x).detach()[:, :3])
    return made


def drawn(kind: type[Any], *more: float) -> Callable[[nn.Module, Tensor], Tensor]:
    def call(layer: nn.Module, x: Tensor) -> Tensor:
        sample: Tensor = kind(layer(x).sigmoid(), *more).sample().float()
        return sample.reshape(8, -1)[:, :1].expand(8, 6)

    return call


def scattered(layer: nn.Module, x: Tensor) -> Tensor:
    h = layer(x)
    return torch.zeros_like(h).scatter_(1, h.argmax(-1, keepdim=True), 1.0)


#: What only looks at a tensor, and makes nothing that leads to the loss.
LOOKS: dict[str, Callable[[Tensor], object]] = {
    "nothing": id,
    "item": lambda h: h.mean().item(),
    "assert": lambda h: bool(h.ge(-99).all()),
    "numpy": lambda h: h.detach().numpy().mean(),
    "no_grad": lambda h: torch.no_grad()(lambda: h.mean() + 1)(),
    "shape": lambda h: torch.zeros_like(h) + h.new_ones(6) + torch.ones(6).expand_as(h),
    "straight": lambda h: Straight.apply(h),
}


NAMES = ("a.weight", "a.bias")


def of(call: Callable[[nn.Module, Tensor], Tensor], felt: Collection[str] = ()) -> tuple[Stop, ...]:
    subject = Subject(Two(call), torch.ones(8, 4), None, torch.sum, torch.device("cpu"))
    return cuts(subject, NAMES, seed=0, felt=felt)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad", "ignore:To copy")
@pytest.mark.parametrize(
    ("call", "op", "layer", "at"),
    [
        (lambda a, x: a(x).relu().detach(), "detach", "(output)", "in"),
        (lambda a, x: a(x).clone().detach_(), "detach_", "(output)", "in"),
        (lambda a, x: a(x).data, "data", "(output)", "in"),
        (lambda a, x: (a(x) > 0).float(), "gt", "(output)", "in"),
        (lambda a, x: F.one_hot(a(x).argmax(-1), 6).float(), "argmax", "(output)", "in"),
        (lambda a, x: torch.tensor(a(x).tolist()), "tolist", "(output)", "in"),
        (lambda a, x: torch.full((8, 6), float(a(x).sum())), "float", "(output)", "in"),
        (lambda a, x: torch.tensor(a(x).detach().numpy()), "numpy", "(output)", "in"),
        (lambda a, x: torch.from_numpy(a(x).detach().numpy()), "numpy", "(output)", "in"),
        (lambda a, x: from_dlpack(a(x).detach()), "detach", "(output)", "in"),
        (lambda a, x: nn.Parameter(a(x).detach()), "detach", "(output)", "in"),
        (lambda a, x: a(x).new_tensor(a(x)), "new_tensor", "(output)", "in"),
        (lambda a, x: (a(x) == 0).float(), "eq", "(output)", "in"),
        (lambda a, x: a(x).topk(6)[1].float(), "topk", "(output)", "in"),
        (lambda a, x: a(x).sort()[1].float(), "sort", "(output)", "in"),
        (lambda a, x: a(x).histc(6).expand(8, 6), "histc", "(output)", "in"),
        (lambda a, x: Straight.apply(a(x)).detach(), "detach", "(output)", "in"),
        (
            lambda a, x: a(x).argmax(-1, keepdim=True).detach() * torch.ones(6),
            "argmax",
            "(output)",
            "in",
        ),
        (scattered, "argmax", "(output)", "in"),
        (written, "detach", "(output)", "in"),
        (drawn(distributions.Normal, 1.0), "sample", "(output)", "in"),
        (drawn(distributions.Categorical), "sample", "(output)", "in"),
        (drawn(distributions.Bernoulli), "sample", "(output)", "in"),
        (drawn(distributions.Beta, 2.0), "sample", "(output)", "in"),
        (lambda a, x: Marked.apply(a(x)), "Marked", "(output)", "in"),
        (part, "no_grad()", "(output)", "in"),
        (without(torch.inference_mode), "inference_mode", "a", ""),
        (without(lambda: torch.set_grad_enabled(False)), "no_grad", "a", ""),
        (without(torch.no_grad), "no_grad", "a", ""),
        (lambda a, x: checkpoint(a, x, use_reentrant=True), "checkpoint", "a", ""),
    ],
)
def test_what_cuts_a_layer_off(
    call: Callable[[nn.Module, Tensor], Tensor], op: str, layer: str, at: str
) -> None:
    (stop,) = of(call)
    assert (stop.op, stop.layer, stop.at) == (op, layer, at)
    assert sorted(stop.parameters) == ["a.bias", "a.weight"]


@pytest.mark.parametrize("look", LOOKS)
def test_what_only_looks_at_a_tensor_cuts_nothing_off(look: str) -> None:
    def cut(layer: nn.Module, x: Tensor) -> Tensor:
        h = layer(x)
        LOOKS[look](h)
        out: Tensor = (h > 0).float()
        return out

    assert [stop.op for stop in of(cut)] == ["gt"]


NUMBERS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "item": lambda a, x: torch.full((8, 6), math.exp(a(x).mean().item())),
    "numpy": lambda a, x: torch.from_numpy(np.abs(a(x).detach().numpy())),
}


@pytest.mark.parametrize("op", NUMBERS)
def test_numbers_that_the_loss_has_felt_have_come_to_it_on_ways_of_their_own(op: str) -> None:
    (stop,) = of(NUMBERS[op], felt=NAMES)
    assert (stop.op, stop.layer, stop.at) == (op, "(output)", "in")
    assert sorted(stop.parameters) == sorted(NAMES)
    assert of(NUMBERS[op]) == ()


def test_numbers_are_told_where_nothing_else_is_known_alone() -> None:
    def logged(layer: nn.Module, x: Tensor) -> Tensor:
        h: Tensor = layer(x)
        h.mean().item()
        return h.detach()

    assert [stop.op for stop in of(logged, felt=NAMES)] == ["detach"]


def test_of_two_things_none_is_named() -> None:
    assert of(lambda a, x: (a(x) > 0) + a(x).detach()) == ()


@pytest.mark.parametrize("look", LOOKS)
def test_what_is_not_cut_off_is_not_named(look: str) -> None:
    def call(layer: nn.Module, x: Tensor) -> Tensor:
        h = layer(x)
        LOOKS[look](h)
        out: Tensor = h - h.detach() + h.relu() + (h > 0) + Straight.apply(h)
        return out

    assert of(call) == ()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_function_of_the_models_own_under_no_grad_may_be_either(context: Any) -> None:
    def call(layer: nn.Module, x: Tensor) -> Tensor:
        h = layer(x)
        with context():
            out: Tensor = Marked.apply(h)
        return out.clone()

    assert of(call) == ()


def test_each_layer_is_cut_off_by_what_comes_first() -> None:
    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.c(self.b((self.a(x) > 0).float()).detach())
            return out

    subject = Subject(Three(), torch.ones(8, 4), None, torch.sum, torch.device("cpu"))
    found = cuts(subject, ["a.weight", "b.weight"], seed=0)
    assert [(stop.op, stop.parameters) for stop in found] == [
        ("gt", ("a.weight",)),
        ("detach", ("b.weight",)),
    ]

"""The second model takes the weights of the first for the while, by their names."""

from __future__ import annotations

import itertools
import re
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import DifferentGradientsError, ProbeError, assert_same_gradients
from tests.helpers.state import unchanged, with_gradients

X, Y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
LOSS = nn.functional.cross_entropy


def net(*names: str, width: int = 5) -> nn.Sequential:
    """Two layers under some names, with weights of their own."""
    first, act, last = names or ("first", "act", "last")
    layers = [(first, nn.Linear(4, width)), (act, nn.Tanh()), (last, nn.Linear(width, 3))]
    return nn.Sequential(OrderedDict(layers))


def test_both_are_left_as_they_were() -> None:
    a, b = with_gradients(net()), with_gradients(net())
    with unchanged(a, b, X, Y):
        assert assert_same_gradients(a, b, X, Y, loss=LOSS).same


def test_own_weights_are_compared_as_they_are() -> None:
    a, b = net(), net()
    with pytest.raises(DifferentGradientsError):
        assert_same_gradients(a, b, X, Y, loss=LOSS, weights="own")
    b.load_state_dict(a.state_dict())
    assert assert_same_gradients(a, b, X, Y, loss=LOSS, weights="own").same


def test_modules_and_parameters_have_other_names() -> None:
    a, b = net(), net("one", "act", "two")
    for renamed in (
        {"first": "one", "last": "two"},
        {"first.weight": "one.weight", "first.bias": "one.bias", "last": "two"},
    ):
        found = assert_same_gradients(a, b, X, Y, loss=LOSS, renamed=renamed)
        assert {d.name for d in found.of("parameter gradient")} == dict(a.named_parameters()).keys()
    wrapped = assert_same_gradients(a, nn.Sequential(net()), X, Y, loss=LOSS, renamed={"": "0"})
    assert len(wrapped.of("parameter gradient")) == 4
    assert {d.name for d in wrapped.of("layer gradient")} <= {"first", "act", "last"}


@pytest.mark.parametrize(
    ("b", "renamed", "said"),
    [
        (
            net("firsts", "act", "last"),
            {},
            "b has no parameter first.weight and first.bias to take from a; did you mean"
            " firsts.weight?"
            "\n  pass renamed={...} with a's names of modules or parameters and b's, or"
            " weights='own' to compare both as they are",
        ),
        (
            net(width=6),
            {},
            "3 parameters of b cannot take a's, for their shape: first.weight (5, 4), in b (6, 4),"
            " first.bias (5,), in b (6,) and last.weight (3, 5), in b (3, 6)"
            "\n  pass weights='own' to compare both as they are",
        ),
        (
            net(),
            {"frist": "first"},
            "renamed maps 'frist', which a does not have; did you mean first?",
        ),
        (
            net(),
            {"first": 3},
            "renamed is {'first': 3}; pass a mapping of a's names to b's, for example"
            ' {"attention": "attn"}',
        ),
    ],
)
def test_names_and_shapes_that_do_not_fit_are_told(b: nn.Module, renamed: Any, said: str) -> None:
    with pytest.raises(ProbeError) as caught:
        assert_same_gradients(net(), b, X, Y, loss=LOSS, renamed=renamed)
    assert str(caught.value) == said


class Normed(nn.Module):
    """A batch norm, whose statistics are saved, and a factor, which is not."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 3)
        self.register_buffer("factor", torch.tensor(factor), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(x)) * self.get_buffer("factor")
        return out


def test_saved_buffers_are_taken_and_others_are_not() -> None:
    a = Normed()
    a(3 * X + 1)
    a.eval()
    assert assert_same_gradients(a, Normed().eval(), X, Y, loss=LOSS).same
    with pytest.raises(DifferentGradientsError, match="output 0"):
        assert_same_gradients(a, Normed(2.0).eval(), X, Y, loss=LOSS)


class Tied(nn.Module):
    """Two layers of one weight, or of two."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        if tied:
            self.down.weight = self.up.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(torch.tanh(self.up(x)))
        return out


def test_a_weight_that_is_no_longer_tied_gets_a_part_of_its_gradient() -> None:
    with pytest.raises(DifferentGradientsError, match=r"the gradient of up\.weight"):
        assert_same_gradients(Tied(tied=True), Tied(tied=False), X, Y % 4, loss=LOSS)
    assert assert_same_gradients(Tied(tied=True), Tied(tied=True), X, Y % 4, loss=LOSS).same


def test_what_has_no_partner_is_told() -> None:
    a, b = net(), net()
    b.load_state_dict(a.state_dict())
    b.register_parameter("spare", nn.Parameter(torch.zeros(2)))
    found = assert_same_gradients(a, b, X, Y, loss=LOSS)
    assert (found.only_a, found.only_b) == ((), ("spare",))
    assert "only in b, and not compared: spare" in str(found)
    found = assert_same_gradients(b, a, X, Y, loss=LOSS, weights="own")
    assert found.only_a == ("spare",)


RUNS = itertools.count()


class Unsteady(nn.Module):
    """Counts its runs where no copy and no seed makes it repeat itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x) * 2.0 ** (next(RUNS) % 3)
        return out


def test_what_differs_from_itself_is_compared_with_nothing() -> None:
    with pytest.raises(ProbeError) as caught:
        assert_same_gradients(Unsteady(), Unsteady(), X, Y, loss=LOSS)
    assert re.fullmatch(
        r"two runs of Unsteady alone differ by \d+%, with the same weights, batch and random"
        r" numbers: nothing can be compared with it; draw its random numbers from torch, and let"
        r" nothing count its calls",
        str(caught.value),
    )


class Chaotic(nn.Module):
    """The logistic map, of which a rounding error takes hold."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.sigmoid(self.layer(x))
        for _ in range(60):
            out = 3.9 * out * (1 - out)
        return out


def test_what_rounding_alone_moves_is_compared_with_nothing() -> None:
    with pytest.raises(
        ProbeError,
        match=r"rounding in float32 alone moves the gradient of Chaotic by \d+%: nothing",
    ):
        assert_same_gradients(Chaotic(), Chaotic(), X, Y, loss=LOSS)
    assert assert_same_gradients(Chaotic(), Chaotic(), X, Y, loss=LOSS, rtol=1e-6).same

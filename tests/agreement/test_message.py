"""What a failure says, where every number is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import DifferentGradientsError, ProbeError, assert_same_gradients


class Product(nn.Module):
    """x w v, for w = 2 and v = 5: at x = 3 the gradients are 15 and 6."""

    def __init__(self, way: Callable[[Tensor, Tensor], Tensor] = lambda x, w: x * w) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.first.weight, 2.0)
        nn.init.constant_(self.last.weight, 5.0)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.way(self.first(x), torch.ones(1)))
        return out


class Otherwise(Product):
    """The same, computed in a way that is not."""


def told(way: Callable[[Tensor, Tensor], Tensor], **how: Any) -> str:
    x = torch.tensor([[3.0]])
    with pytest.raises(DifferentGradientsError) as caught:
        assert_same_gradients(Product(), Otherwise(way), x, loss=torch.sum, **how)
    return str(caught.value)


def test_a_gradient_that_is_cut() -> None:
    assert (
        told(lambda x, one: x.detach() * one)
        == """\
Otherwise differs from Product: the gradient of first.weight is 0, not 15 (L2 norm), off by 100%:\
 no digit agrees

compared in float32: outputs, loss and the gradients of 2 parameters
and what 1 layer returns and gets back
two runs of Product alone are the same to the last bit

                            norm in a    in b    apart    allowed
gradient of first.weight           15       0     100%   0.00019%  !

cause:  the forward is the same, but no gradient reaches first.weight
try:    look for a detach, a scale or a missing sum there"""
    )


def test_a_gradient_that_is_doubled() -> None:
    assert (
        told(lambda x, one: x * one + (x - x.detach()))
        == """\
Otherwise differs from Product: the gradient at first is 10, not 5 (L2 norm), off by 100%:\
 no digit agrees

compared in float32: outputs, loss and the gradients of 2 parameters
and what 2 layers return and get back
two runs of Product alone are the same to the last bit

                            norm in a    in b    apart    allowed
gradient at first                   5      10     100%   0.00019%  !
gradient of first.weight           15      30     100%   0.00019%  !

cause:  the forward is the same, and the gradient at first is 2 times a's: a
        mean, a sum or a scale
try:    look for a detach, a scale or a missing sum there"""
    )


def test_a_forward_that_is_another() -> None:
    assert (
        told(lambda x, one: x * one * 1.0001)
        == """\
Otherwise differs from Product: what last returns is 30.003, not 30 (L2 norm), off by 0.01%:\
 4 digits agree

compared in float32: outputs, loss and the gradients of 2 parameters
and what 2 layers return and get back
two runs of Product alone are the same to the last bit

                            norm in a    in b    apart    allowed
what last returns                  30      30    0.01%   0.00019%  !
output 0                           30      30    0.01%   0.00019%  !
loss                               30      30    0.01%   0.00019%  !
gradient of last.weight             6       6    0.01%   0.00019%  !
gradient at first                   5       5    0.01%   0.00019%  !
gradient of first.weight           15      15    0.01%   0.00019%  !

cause:  the forward is another one from what last returns on; what first
        returns is still the same
try:    look at what both compute there, or allow for it: rtol=2e-04"""
    )


def test_what_one_side_alone_returns() -> None:
    class Pair(Product):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), x

    class Alone(Product):
        def forward(self, x: Tensor) -> Any:
            return (super().forward(x),)

    with pytest.raises(DifferentGradientsError) as caught:
        assert_same_gradients(Alone(), Pair(), torch.tensor([[3.0]]), loss=lambda out: out[0].sum())
    assert (
        str(caught.value)
        == """\
Pair differs from Alone: output 1 is in b alone

compared in float32: outputs, loss and the gradients of 2 parameters
and what 2 layers return and get back
two runs of Alone alone are the same to the last bit

            norm in a    in b    apart    allowed
output 1                    3                      !

cause:  output 1 is returned by b, and not by the other
try:    return the same in both, or compare a function of the outputs:
        call=..."""
    )


def test_what_one_side_alone_trains() -> None:
    frozen = Otherwise()
    frozen.first.requires_grad_(False)
    with pytest.raises(DifferentGradientsError) as caught:
        assert_same_gradients(Product(), frozen, torch.tensor([[3.0]]), loss=torch.sum)
    *_, cause, advice = str(caught.value).splitlines()
    assert cause == "cause:  first.weight is frozen in b, and not in the other"
    assert advice == "try:    train it in both, or in neither: requires_grad_(False)"


def test_an_input_whose_gradient_is_cut() -> None:
    x = torch.tensor([[3.0]], requires_grad=True)

    class Cut(Product):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.detach())

    with pytest.raises(DifferentGradientsError) as caught:
        assert_same_gradients(Product(), Cut(), x, loss=torch.sum)
    headline, *_, cause, _ = str(caught.value).splitlines()
    assert headline.startswith(
        "Cut differs from Product: the gradient of input 0 is 0, not 10 (L2 norm), off by 100%:"
    )
    assert cause == "cause:  the forward is the same, but no gradient reaches input 0"


def test_nothing_is_compared_with_no_number() -> None:
    with pytest.raises(ProbeError) as caught:
        assert_same_gradients(
            Otherwise(lambda x, one: x * one / 0.0),
            Product(),
            torch.tensor([[3.0]]),
            loss=torch.sum,
        )
    assert str(caught.value) == (
        "the loss of Otherwise is inf: nothing can be compared with it; assert_healthy(model, ...)"
        " tells where that comes from"
    )


def test_a_number_that_is_not_finite() -> None:
    assert (
        told(lambda x, one: x * one / 0.0)
        == """\
Otherwise differs from Product: what last returns is inf, not 30 (L2 norm)

compared in float32: outputs, loss and the gradients of 2 parameters
and what 2 layers return and get back
two runs of Product alone are the same to the last bit

                            norm in a    in b    apart    allowed
what last returns                  30     inf      inf   0.00019%  !
output 0                           30     inf      inf   0.00019%  !
loss                               30     inf      inf   0.00019%  !
gradient of last.weight             6     inf      inf   0.00019%  !
gradient at first                   5     inf      inf   0.00019%  !
gradient of first.weight           15     inf      inf   0.00019%  !

cause:  the forward is another one from what last returns on; what first
        returns is still the same
try:    look at what both compute there"""
    )

"""Decisions are taken over where rounding may have turned them, and nowhere else."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from pytest_gradhealth import DifferentGradientsError, ProbeError, assert_same_gradients

X, Y = torch.randn(8, 12), torch.arange(8) % 3


class Limited(nn.Module):
    """Scales what is longer than a limit down to it."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.body, self.head, self.limit = nn.Linear(12, 12), nn.Linear(12, 3), limit

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        h = torch.where(h.norm() > self.limit, h / h.norm() * self.limit, h)
        out: Tensor = self.head(h)
        return out


class Causal(nn.Module):
    """Attends to what was before; the mask is made of numbers."""

    def __init__(self, shift: int = 0) -> None:
        super().__init__()
        self.qkv, self.head, self.shift = nn.Linear(16, 48), nn.Linear(16, 16), shift

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        mask = torch.ones(x.shape[1], x.shape[1], dtype=x.dtype).triu(1 + self.shift).bool()
        scores = (q @ k.transpose(1, 2)).masked_fill(mask, -1e4)
        out: Tensor = self.head(scores.softmax(-1) @ v)
        return out


@pytest.mark.parametrize("via", [None, "float64", "bfloat16"])
def test_one_decision_that_is_another_is_a_difference(via: str | None) -> None:
    torch.manual_seed(0)
    ours = Limited(1.0)
    if via is not None:
        assert_same_gradients(ours, ours, X, Y, loss=cross_entropy, via=via)
    with pytest.raises(DifferentGradientsError):
        assert_same_gradients(ours, Limited(1e9), X, Y, loss=cross_entropy)


def test_a_mask_off_by_one_is_one_in_coarse_formats_too() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 24, 16, dtype=torch.bfloat16), torch.randn(2, 24, 16).bfloat16()
    ours, theirs = Causal().bfloat16(), Causal(1).bfloat16()
    with pytest.raises(DifferentGradientsError):
        assert_same_gradients(ours, theirs, x, y, loss=mse_loss)
    assert_same_gradients(ours, Causal().bfloat16(), x, y, loss=mse_loss)


@pytest.mark.parametrize("side", [24, 48])
def test_the_sums_of_a_convolution_are_as_right_as_they_are(side: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x, y = torch.randn(4, 3, side, side), torch.arange(4)
    assert_same_gradients(model, model, x, y, loss=cross_entropy, via="float64")


class Padded(nn.Module):
    """Attention in which a row is masked as a whole, by the least number that there is."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(16, 48), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q @ k.transpose(1, 2)
        padded = torch.arange(x.shape[1]) < 2
        mask = padded[None, :] | (torch.arange(x.shape[1])[:, None] < torch.arange(x.shape[1]))
        scores = scores.masked_fill(mask, torch.finfo(scores.dtype).min)
        out: Tensor = self.head((scores.softmax(-1) @ v)[:, -1])
        return out


@pytest.mark.parametrize("via", ["float64", "bfloat16", "checkpoint"])
def test_the_least_number_stays_one(via: str) -> None:
    torch.manual_seed(0)
    model = Padded()
    assert_same_gradients(model, model, torch.randn(8, 6, 16), Y, loss=cross_entropy, via=via)


def test_without_a_name_in_common_nothing_is_compared() -> None:
    class Named(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.name = name
            self.add_module(name, nn.Linear(12, 3))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.get_submodule(self.name)(x)
            return out

    with pytest.raises(ProbeError, match="no parameter of Named has the name of one of"):
        assert_same_gradients(Named("l"), Named("m"), X, Y, loss=cross_entropy, weights="own")


def test_ddp_leaves_the_hook_of_errors() -> None:
    before, model = sys.excepthook, nn.Linear(12, 3)
    assert_same_gradients(model, model, X, Y, loss=cross_entropy, via="ddp")
    assert sys.excepthook is before

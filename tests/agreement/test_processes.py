"""On two processes, gradients are compared with the mean of what the plain model has on both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers.ranks import NETS, fully_sharded, passed, torchrun

SOURCE = (
    NETS
    + r'''
from pytest_gradhealth import DifferentGradientsError, assert_same_gradients

RANK = int(os.environ["RANK"])


def own_weights():
    torch.manual_seed(RANK)
    return nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))


class Reducing(nn.Module):
    """Has the gradients of all processes in each, once they are through `how`."""

    def __init__(self, model, how):
        super().__init__()
        self.module = model
        for parameter in model.parameters():
            parameter.register_hook(how)

    def forward(self, x):
        return self.module(x)


def total(gradient):
    found = gradient.clone()
    dist.all_reduce(found)
    return found


@pytest.mark.parametrize("via", WAYS)
@pytest.mark.parametrize("make", [net, own_weights])
def test_agrees(via, make):
    found = assert_same_gradients(make(), *batch(RANK), loss=cross_entropy, via=via)
    assert found.b.endswith("on 2 processes")
    assert len(found.of("parameter gradient")) >= 4


def test_the_mean():
    def averaging(model):
        return Reducing(model, lambda gradient: total(gradient) / 2)

    assert_same_gradients(
        net(), *batch(RANK), loss=cross_entropy, via=averaging, together=True
    )


def test_a_sum_in_place_of_the_mean():
    def summing(model):
        return Reducing(model, total)

    with pytest.raises(DifferentGradientsError, match=r"a parameter is 2\s+times\s+a's"):
        assert_same_gradients(
            net(), *batch(RANK), loss=cross_entropy, via=summing, together=True
        )


def test_nothing_is_reduced():
    def alone(model):
        return Reducing(model, lambda gradient: gradient)

    with pytest.raises(DifferentGradientsError, match=r"the\s+way\s+back\s+is\s+another"):
        assert_same_gradients(net(), *batch(RANK), loss=cross_entropy, via=alone, together=True)


@pytest.mark.parametrize("via", WAYS)
def test_raises_alone(via):
    class Raising(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 4)

        def forward(self, x):
            if RANK == 1:
                raise ValueError("not here")
            return self.layer(x)

    with pytest.raises(ProbeError, match="Raising.forward raised ValueError: not here") as caught:
        assert_same_gradients(Raising(), *batch(RANK), loss=cross_entropy, via=via)
    assert str(caught.value).startswith("" if RANK == 1 else "on rank 1: ")


def test_asks_alone():
    rtol = 0.1 if RANK == 1 else -1
    with pytest.raises(ProbeError, match="rtol is -1; pass a number"):
        assert_same_gradients(net(), *batch(RANK), loss=cross_entropy, via="ddp", rtol=rtol)


def test_one_rank_alone():
    def halving(model):
        if RANK == 1:
            model[0].weight.register_hook(lambda gradient: gradient / 2)
        return Reducing(model, lambda gradient: total(gradient) / 2)

    with pytest.raises(DifferentGradientsError) as caught:
        assert_same_gradients(net(), *batch(RANK), loss=cross_entropy, via=halving, together=True)
    assert "gradient of 0.weight" in str(caught.value)
'''
).replace("WAYS", repr(["ddp", "fully_shard"] if not fully_sharded.args[0] else ["ddp"]))


@pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="torch.distributed with gloo is not available",
)
def test_two_processes(tmp_path: Path) -> None:
    run = torchrun(tmp_path, SOURCE)
    for test in (
        "test_agrees",
        "test_the_mean",
        "test_a_sum_in_place_of_the_mean",
        "test_nothing_is_reduced",
        "test_one_rank_alone",
        "test_raises_alone",
        "test_asks_alone",
    ):
        passed(run, test)

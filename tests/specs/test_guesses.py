"""Batches and losses are guessed where the model tells, and said; else the flag is."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from pytest_gradhealth import assert_healthy
from pytest_gradhealth.errors import SettingError
from pytest_gradhealth.specs.brought import Brought
from pytest_gradhealth.specs.drawn import Batch
from tests.helpers.libraries import library
from tests.helpers.specs import planned
from tests.specs.conftest import Written

HEAD = "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\n\n"
NETS = (
    HEAD
    + """
class Own(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)
    def forward(self, x):
        return self.layers(x)

def mlp(): return Own(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5))
def regressor(): return Own(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 1))
def coder(): return Own(nn.Linear(20, 4), nn.ReLU(), nn.Linear(4, 20))
def digits(): return Own(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 26 * 26, 10))
def pictures(): return Own(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                           nn.Linear(8, 10))
def sides(): return Own(nn.Conv2d(3, 4, 5, 4), nn.Flatten(), nn.Linear(4 * 23 * 23, 3))
def flat(): return Own(nn.Flatten(), nn.Linear(784, 10))
def signal(): return Own(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
                         nn.Linear(4, 3))
def volume(): return Own(nn.Conv3d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
                         nn.Linear(2, 3))
def normed(): return Own(nn.BatchNorm1d(6), nn.Linear(6, 3))

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.rnn, self.head = nn.Embedding(50, 8), nn.GRU(8, 8), nn.Linear(8, 50)
    def forward(self, ids, mask=None):
        return self.head(self.rnn(self.words(ids))[0])

class Memory(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 4)
    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])

class TimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(6, 8), nn.Linear(8, 4)
    def forward(self, x):
        return self.head(self.rnn(x)[0][-1])

class Patches(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(12, 8)
    def forward(self, x):
        batch, length, width = x.shape
        return self.inner(x).mean(1)

class Losing(nn.Linear):
    def __init__(self):
        super().__init__(5, 3)
    def forward(self, x):
        return super().forward(x).square().mean()

class Pairs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
    def forward(self, left, right, scale=1.0):
        return self.a(left) @ self.a(right).T

class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3))
    def forward(self, x):
        return x * self.weight

class Stubborn(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
    def forward(self, x):
        raise ValueError("not like this")

class Ending(nn.Linear):
    def __init__(self):
        super().__init__(4, 4)
    def forward(self, x):
        raise SystemExit(1)

class Rows(nn.Linear):
    def __init__(self):
        super().__init__(4, 3)
    def forward(self, xs):
        return super().forward(xs[0]) + super().forward(xs[1])

def empty(): return Own(nn.Linear(0, 4), nn.Linear(4, 2))
def double(): return Own(nn.Linear(20, 5)).double()
def nothing(): return None

class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0
        self.a, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
    def forward(self, x):
        self.calls += 1
        return self.norm(self.a(x))

counting = Counting()

def batch():
    return torch.randn(6, 20), torch.arange(6) % 5

def inputs():
    return torch.randn(6, 20)

def hits():
    return torch.randn(6, 20), torch.randn(6, 5)

def odd():
    return torch.randn(6, 20), torch.randn(6, 7)

def pairs():
    return ((torch.randn(6, 4), torch.randn(6, 4)), None)

def fails():
    raise KeyError("file")

def loss(outputs):
    return outputs.square().mean()

def loss_of_two(outputs, targets):
    return F.cross_entropy(outputs, targets, label_smoothing=0.1)
"""
)


@pytest.mark.parametrize(
    ("name", "guessed", "targets"),
    [
        (
            "mlp",
            "input 8x20 (layers.0 is Linear(in_features=20)), loss cross_entropy",
            "int64[8]<5",
        ),
        ("regressor", "input 8x20 (layers.0 is Linear(in_features=20)), loss mse", "8x1"),
        ("coder", "input 8x20 (layers.0 is Linear(in_features=20)), loss mse", "8x20"),
        ("digits", "input 8x1x28x28 (layers.0 is Conv2d(in_channels=1))", "int64[8]<10"),
        ("pictures", "input 8x3x64x64 (layers.0 is Conv2d(in_channels=3))", "int64[8]<10"),
        ("sides", "input 8x3x96x96 (layers.0 is Conv2d(in_channels=3))", "int64[8]<3"),
        ("flat", "input 8x784 (layers.1 is Linear(in_features=784))", "int64[8]<10"),
        ("signal", "input 8x2x64 (layers.0 is Conv1d(in_channels=2))", "int64[8]<3"),
        ("volume", "input 4x1x16x16x16 (layers.0 is Conv3d(in_channels=1))", "int64[4]<3"),
        ("double", "input float64[8,20] (layers.0 is Linear(in_features=20))", "int64[8]<5"),
        ("normed", "input 8x6 (layers.0 is BatchNorm1d(num_features=6))", "int64[8]<3"),
        ("Words", "input int64[8,16]<50 (words is Embedding(num_embeddings=50)), a random", "None"),
        ("Memory", "input 8x16x6 (rnn is LSTM(input_size=6)), loss cross_entropy", "int64[8]<4"),
        ("TimeFirst", "input 8x16x6 (rnn is GRU(input_size=6)), loss", "int64[16]<4"),
        ("Patches", "input 8x16x12 (inner is Linear(in_features=12))", "int64[8]<8"),
        ("Losing", "input 8x5 (the model is Losing(in_features=5)), the model's own loss", "None"),
    ],
)
def test_the_first_layer_says_its_width(
    written: Written, name: str, guessed: str, targets: str
) -> None:
    written(nets=NETS)
    plan = planned(f"nets:{name}")
    assert ", ".join(plan.guessed).startswith(guessed)
    assert str(plan.targets) == targets
    inputs, wanted = plan.batch_and_targets()
    loss = None if plan.loss is None else plan.loss.function
    assert_healthy(plan.model, inputs, wanted, loss=loss)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Pairs", " (its forward takes left, right)"),
        ("Bare", ""),
        ("Stubborn", " (Stubborn.forward raised ValueError: not like this)"),
        ("Ending", " (the forward raised SystemExit: 1)"),
        (
            "empty",
            " (Own.forward raised RuntimeError: mat1 and mat2 shapes cannot be multiplied (8x4 and"
            " 0x4))",
        ),
        ("Rows", " (of (8, 4) float32 it makes (3,) float32, and nothing of each example)"),
    ],
)
def test_what_cannot_be_guessed_is_one_sentence(written: Written, name: str, why: str) -> None:
    written(nets=NETS)
    with pytest.raises(SettingError) as caught:
        planned(f"nets:{name}")
    assert str(caught.value) == (
        f"the batch of nets:{name} cannot be guessed{why}; add --gradhealth-input=8x3x32x32,"
        " 'input_ids=int64[4,16]<1000', or module:batch"
    )


def test_what_is_given_is_not_guessed(written: Written) -> None:
    written(nets=NETS)
    plan = planned("nets:mlp", "3x20", loss="mse")
    assert (str(plan.batch), str(plan.targets), plan.guessed) == ("3x20", "3x5", ())
    plan = planned("nets:Pairs", "left=3x4", "right=3x4")
    assert plan.batch_and_targets()[0].keys() == {"left", "right"}
    assert plan.guessed == ("a random direction of the outputs in place of a loss",)
    plan = planned("nets:mlp", "3x20", loss="cross_entropy")
    assert (str(plan.targets), plan.guessed) == ("int64[3]<5", ())


def test_a_batch_that_does_not_fit_is_left_to_the_test(written: Written) -> None:
    written(nets=NETS)
    plan = planned("nets:mlp", "3x7", loss="cross_entropy")
    assert (str(plan.batch), plan.targets) == ("3x7", None)


@pytest.mark.parametrize(
    ("batch", "loss", "found", "guessed"),
    [
        ("nets:batch", "", "cross_entropy", ("loss cross_entropy",)),
        ("nets:hits", "", "mse", ("loss mse",)),
        ("nets:batch", "nets:loss_of_two", "nets:loss_of_two", ()),
        ("nets:inputs", "nets:loss", "nets:loss", ()),
        ("nets:inputs", "cross_entropy", "cross_entropy", ()),
        ("nets.py:batch", "nets.py:loss_of_two", "nets.py:loss_of_two", ()),
        (
            "nets:batch",
            "torch.nn.functional:cross_entropy",
            "cross_entropy",
            (),
        ),
    ],
)
def test_functions_bring_batches_and_losses(
    written: Written, batch: str, loss: str, found: str, guessed: tuple[str, ...]
) -> None:
    written(nets=NETS)
    plan = planned("nets:mlp", batch, loss=loss)
    assert isinstance(plan.batch, Brought)
    assert plan.loss is not None
    assert (plan.loss.name, plan.guessed) == (found, guessed)
    first, again = plan.batch_and_targets(), plan.batch_and_targets()
    assert torch.equal(first[0], again[0])
    assert (first[1] is None) == (loss == "nets:loss")
    assert_healthy(plan.model, *first, loss=plan.loss.function)


def test_a_pair_without_targets_are_two_inputs(written: Written) -> None:
    written(nets=NETS)
    inputs, targets = planned("nets:Pairs", "nets:pairs").batch_and_targets()
    assert (len(inputs), targets) == (2, None)


@pytest.mark.parametrize(
    ("inputs", "loss", "said"),
    [
        ("nets:odd", "", "cannot be guessed from its targets; add --gradhealth-loss=cross_entropy"),
        ("nets:fails", "", "nets:fails raised KeyError: 'file'"),
        ("nets:bacth", "", "nets has no bacth; did you mean batch?"),
        ("nets:mlp()", "", "nets:mlp(): name the function alone, without parentheses"),
        ("os:getcwd", "", "os:getcwd is no function that builds a model; name a function that"),
        ("8x20", "nets:loss_of_two", "nobody can draw targets for the loss nets:loss_of_two of"),
        ("8x20", "cross_entrpy", "'cross_entrpy' is no loss; did you mean cross_entropy?"),
        ("8x20", "zzz", "--gradhealth-loss: 'zzz' is no loss; write cross_entropy, mse, or module"),
        ("8x20", "nets:zzz", "nets has no zzz"),
        ("8y20", "", "--gradhealth-input: '8y20' is no tensor"),
    ],
)
def test_what_cannot_be_given(written: Written, inputs: str, loss: str, said: str) -> None:
    written(nets=NETS)
    with pytest.raises(SettingError) as caught:
        planned("nets:mlp", inputs, loss=loss)
    assert said in str(caught.value)


def test_to_plan_leaves_no_trace(written: Written) -> None:
    written(nets=NETS)
    planned("nets:mlp")  # what the module draws while it is imported is its affair
    before = torch.get_rng_state()
    plan = planned("nets:counting")
    model: Any = plan.model
    assert model is sys.modules["nets"].counting
    assert model.calls == 0
    assert torch.equal(model.norm.running_mean, torch.zeros(4))
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(before, torch.get_rng_state())


LIGHTNING = (
    HEAD
    + """
from lightning import LightningModule

class Pair(LightningModule):
    def __init__(self, width=16):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(20, width), nn.ReLU(), nn.Linear(width, 5))
    def forward(self, x):
        return self.net(x)
    def training_step(self, batch, index):
        x, y = batch
        return F.cross_entropy(self(x), y)
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())

class Hits(Pair):
    def training_step(self, batch, index):
        x, y = batch
        return F.mse_loss(self(x), y)

class Alone(Pair):
    def training_step(self, batch, index):
        return self(batch).square().mean()

class Example(Alone):
    def __init__(self):
        super().__init__()
        self.example_input_array = torch.zeros(3, 20)

class Taken(Pair):
    def training_step(self, batch, index):
        return F.mse_loss(self(batch[0]), batch[1])

class Next(LightningModule):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(30, 8), nn.Linear(8, 30)
    def forward(self, ids):
        return self.head(self.words(ids))
    def training_step(self, batch, index):
        ids, then = batch
        return F.cross_entropy(self(ids).reshape(-1, 30), then.reshape(-1))

class Deep(Pair):
    def training_step(self, batch, index):
        return F.cross_entropy(self(batch["image"]), batch["label"])
"""
)


@pytest.mark.parametrize(
    ("text", "inputs", "targets"),
    [
        ("lightning:nets:Pair", "8x20", "int64[8]<5"),
        ("lightning:nets:Pair(8)", "8x20", "int64[8]<5"),
        ("lightning:nets.py:Pair", "8x20", "int64[8]<5"),
        ("nets:Pair", "8x20", "int64[8]<5"),
        ("nets:Hits", "8x20", "8x5"),
        ("nets:Taken", "8x20", "8x5"),
        ("nets:Next", "int64[8,16]<30", "int64[8,16]<30"),
        ("nets:Alone", "8x20", "None"),
        ("nets:Example", "3x20", "None"),
    ],
)
def test_a_training_step_tells_its_targets(
    written: Written, text: str, inputs: str, targets: str
) -> None:
    library("lightning")
    written(nets=LIGHTNING)
    plan = planned(text)
    assert isinstance(plan.batch, Batch)
    assert (str(plan.batch), str(plan.targets), plan.loss) == (inputs, targets, None)
    assert_healthy(plan.model, *plan.batch_and_targets())


def test_what_is_no_training_step_of_a_pair(written: Written) -> None:
    library("lightning")
    written(nets=LIGHTNING, own="from torch import nn\n\ndef net():\n    return nn.Linear(2, 2)\n")
    with pytest.raises(
        SettingError, match="its training_step makes no loss of one tensor, or of"
    ) as why:
        planned("lightning:nets:Deep")
    assert "TypeError" in str(why.value)
    with pytest.raises(SettingError) as caught:
        planned("lightning:own:net")
    assert str(caught.value) == (
        "Linear is no LightningModule with a training_step; leave lightning: out"
    )


def test_a_function_that_brings_nothing_says_so(written: Written) -> None:
    written(nets=NETS)
    with pytest.raises(SettingError) as caught:
        planned("nets:mlp", "nets:nothing")
    assert str(caught.value) == "nets:nothing returned None; return inputs, or inputs and targets"

"""What a ProbeError says to pass works when it is passed."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import ProbeError, probe
from tests.helpers.nets import mlp

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 3
IDS = torch.arange(28).view(4, 7) % 20
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
MASKS = torch.arange(128).view(2, 8, 8) % 4
SERIES = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(2))
CE: dict[str, Any] = {"loss": F.cross_entropy}
MSE: dict[str, Any] = {"loss": F.mse_loss}
BCE: dict[str, Any] = {"loss": F.binary_cross_entropy_with_logits}


def net(classes: int = 3) -> nn.Sequential:
    return mlp(nn.Tanh, width=16, hidden=2, inputs=4, classes=classes)


def conv(classes: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, classes, 1))


def flat() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Tanh(), nn.Linear(8, 3))


def language() -> nn.Module:
    return nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 20))


def recurrent(kind: Any = nn.LSTM) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), kind(4, 8, batch_first=True), nn.Linear(8, 1))


class Last(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.GRU(4, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.cells(x)[0][:, -1, :1]
        return out


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(nn.Tanh, width=16, hidden=2, inputs=8, classes=3)

    def forward(self, a: Any, b: Any, scale: float = 1.0) -> Any:
        return self.body(torch.cat([a, b], 1)) * scale


SWAPPED = "the targets would do as inputs, and the inputs do not; pass x before y"
FLATTENED = "outputs.flatten(0, -2), targets.flatten())"

#: By name: a model, what it is called with, and the last line of what it is told.
ADVICE: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any], str]] = {
    "int32 classes": (net(), (X, Y.int()), CE, "the targets are int32; pass y.long()"),
    "int16 classes": (net(), (X, Y.short()), CE, "the targets are int16; pass y.long()"),
    "int8 classes": (net(), (X, Y.char()), CE, "the targets are int8; pass y.long()"),
    "bool classes": (net(2), (X, Y > 0), CE, "the targets are bool; pass y.long()"),
    "float classes": (net(), (X, Y.float()), CE, "the targets are float32; pass y.long()"),
    "int32 classes, likelihood": (
        nn.Sequential(net(), nn.LogSoftmax(-1)),
        (X, Y.int()),
        {"loss": nn.NLLLoss()},
        "the targets are int32; pass y.long()",
    ),
    "int32 probabilities": (
        net(),
        (X, F.one_hot(Y).int()),
        CE,
        "the targets are int32, the outputs float32; pass y.float()",
    ),
    "bool for two classes": (
        net(1),
        (X, Y[:, None] > 0),
        BCE,
        "the targets are bool, the outputs float32; pass y.float()",
    ),
    "bool in a difference": (
        net(1),
        (X, Y[:, None] > 0),
        {"loss": F.l1_loss},
        "the targets are bool, the outputs float32; pass y.float()",
    ),
    "int16 for two classes": (
        nn.Sequential(net(1), nn.Sigmoid()),
        (X, (Y[:, None] > 0).short()),
        {"loss": nn.BCELoss()},
        "the targets are int16, the outputs float32; pass y.float()",
    ),
    "arrays of classes": (
        net(),
        (X, Y.int().numpy()),
        CE,
        "the targets are of numpy (ndarray); pass a tensor: torch.as_tensor(y, dtype=torch.int64)",
    ),
    "arrays of truths": (
        net(1),
        (X, (Y[:, None] > 0).numpy()),
        BCE,
        "the targets are of numpy (ndarray); pass a tensor: torch.as_tensor(y,"
        " dtype=torch.float32)",
    ),
    "arrays of numbers": (
        net(),
        (np.arange(64).reshape(16, 4), Y),
        CE,
        "the inputs are of numpy (ndarray); pass a tensor: torch.as_tensor(x, dtype=torch.float32)",
    ),
    "arrays for doubles": (
        net().double(),
        (X.numpy(), Y),
        CE,
        "the inputs are of numpy (ndarray); pass a tensor: torch.as_tensor(x, dtype=torch.float64)",
    ),
    "arrays of ids": (
        language(),
        (IDS.short().numpy(),),
        {},
        "the inputs are of numpy (ndarray); pass a tensor: torch.as_tensor(x, dtype=torch.int64)",
    ),
    "lists of classes": (
        net(),
        (X, Y.tolist()),
        CE,
        "the targets are plain numbers; pass a tensor: torch.tensor(y)",
    ),
    "lists of whole numbers": (
        net(),
        (X.long().tolist(), Y),
        CE,
        "the inputs are plain numbers; pass a tensor: torch.tensor(x, dtype=torch.float32)",
    ),
    "swapped classes": (net(), (Y, X), CE, SWAPPED),
    "swapped numbers": (net(1), (X[:, :1], X), MSE, SWAPPED),
    "swapped pictures": (
        nn.Sequential(conv(), nn.Flatten(), nn.Linear(256, 3)),
        (Y[:2], IMAGES),
        CE,
        SWAPPED,
    ),
    "swapped before flattening": (flat(), (Y[:2], IMAGES), CE, SWAPPED),
    "swapped ids": (
        nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(56, 1)),
        (X[:4, :1], IDS),
        MSE,
        SWAPPED,
    ),
    "swapped series": (Last(), (X[:2, :1], SERIES), MSE, SWAPPED),
    "channels last": (
        conv(),
        (IMAGES.movedim(1, -1), MASKS),
        CE,
        "channels come before height and width; pass x.movedim(-1, 1)",
    ),
    "one example": (
        nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)),
        (X[:1], Y[:1]),
        CE,
        "BatchNorm1d compares examples; pass a batch of at least two",
    ),
    "one place": (
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.InstanceNorm2d(4)),
        (IMAGES[:, :, :1, :1],),
        {},
        "InstanceNorm2d compares places; pass larger inputs",
    ),
    "classes last": (
        language(),
        (IDS, IDS),
        CE,
        "the targets have shape (4, 7), the outputs (4, 7, 20); pass loss=lambda outputs, targets:"
        f" cross_entropy({FLATTENED}",
    ),
    "classes last, of a module": (
        nn.Linear(3, 4),
        (IMAGES.movedim(1, -1), MASKS),
        {"loss": nn.CrossEntropyLoss()},
        "the targets have shape (2, 8, 8), the outputs (2, 8, 8, 4); pass loss=lambda outputs,"
        f" targets: criterion({FLATTENED}",
    ),
    "masks with a channel": (
        conv(),
        (IMAGES, MASKS[:, None]),
        CE,
        "the targets have shape (2, 1, 8, 8), the outputs (2, 4, 8, 8); pass y.squeeze(1)",
    ),
    "masks without the channel": (
        conv(1),
        (IMAGES, MASKS.gt(0).float()),
        BCE,
        "the targets have shape (2, 8, 8), the outputs (2, 1, 8, 8); pass y.unsqueeze(1)",
    ),
    "one-hot masks": (
        conv(),
        (IMAGES, F.one_hot(MASKS).float()),
        CE,
        "the targets have shape (2, 8, 8, 4), the outputs (2, 4, 8, 8); pass y.movedim(-1, 1)",
    ),
    "both in a mapping": (
        net(),
        ({"x": X, "id": "a", "y": Y},),
        CE,
        "the inputs are a dict, which went as one argument; pass parts of it: batch['x'],"
        " batch['y']",
    ),
    "a mapping": (
        net(),
        ({"image": X}, Y),
        CE,
        "the inputs are a dict, which went as one argument; pass a part of it: batch['image']",
    ),
    "names behind positions": (
        Two(),
        ((X, {"b": X}), Y),
        CE,
        "a mapping is one argument among others; pass all by name: {'a': ..., 'b': ...}",
    ),
    "outputs of a recurrent layer": (
        recurrent(),
        (SERIES, SERIES[..., :1]),
        MSE,
        "LSTM returns a tuple, which nn.Sequential hands on as it is; pass call=lambda model, x:"
        " model[2:](model[:2](x)[0])",
    ),
    "outputs of a nested layer": (
        nn.ModuleDict({"net": recurrent(nn.GRU)}),
        (SERIES, SERIES[..., :1]),
        {**MSE, "call": lambda model, x: model["net"](x)},
        "GRU returns a tuple, which nn.Sequential hands on as it is; write"
        " self.net[2:](self.net[:2](x)[0]) in the forward",
    ),
    "attention in a sequence": (
        nn.Sequential(nn.MultiheadAttention(4, 2), nn.Linear(4, 1)),
        (SERIES, SERIES[..., :1]),
        MSE,
        "0 (MultiheadAttention) takes query, key and value, and nn.Sequential hands on one thing;"
        " call it in a forward: attention(x, x, x)[0]",
    ),
}


def told(model: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> str:
    with pytest.raises(ProbeError) as caught:
        probe(model, *given, **named)
    return str(caught.value).splitlines()[-1].strip()


@pytest.mark.parametrize(("model", "given", "named", "words"), ADVICE.values(), ids=[*ADVICE])
def test_what_it_says_to_pass_works(
    model: Any, given: tuple[Any, ...], named: Any, words: str
) -> None:
    assert told(model, given, named) == words
    x, y = given if len(given) == 2 else (*given, None)
    names = {"torch": torch, "batch": x, "criterion": named.get("loss"), "x": x, "y": y}
    names |= {"cross_entropy": F.cross_entropy}
    code = re.split(r"pass (?:a tensor: |parts of it: |a part of it: )?", words)[-1]
    named = dict(named)
    if words.startswith(("the targets are of numpy", "the targets are plain")):
        y = eval(code, {**names, "x": y})
    elif code.startswith(("loss=", "call=")):
        option, _, function = code.partition("=")
        named[option] = eval(function, names)
    elif code == "x before y":
        x, y = y, x
    elif code.startswith("batch"):
        parts = eval(f"({code},)", names)
        x, y = parts if len(parts) == 2 else (*parts, y)
    elif code.startswith("y."):
        y = eval(code, names)
    elif re.match(r"x\.|torch\.", code):
        x = eval(code, names)
    elif code.startswith("all by name"):
        x = {"a": x[0], **x[1]}
    else:
        return
    assert probe(model, x, y, **named).profile.objective


@pytest.mark.parametrize(
    ("model", "given", "named", "last"),
    [
        # An autoencoder, whose targets look like what a first layer takes.
        (
            net(4),
            (torch.randn(16, 5), X),
            MSE,
            "0 (Linear) takes 4 features, and gets 5; pass inputs of that width, or make it"
            " Linear(5, ...)",
        ),
        (
            net(4),
            (X.long(), X),
            MSE,
            "the inputs are int64, the parameters float32; pass x.float()",
        ),
        (
            net(4),
            (X[:, :3], (X > 0).long()),
            BCE,
            "0 (Linear) takes 4 features, and gets 3; pass inputs of that width, or make it"
            " Linear(3, ...)",
        ),
        (
            net(),
            (X.T, Y),
            CE,
            "0 (Linear) takes 4 features, and gets 16; pass inputs of that width, or make it"
            " Linear(16, ...)",
        ),
        (
            conv(),
            (IMAGES[:, :2], MASKS),
            CE,
            "0 (Conv2d) takes 3 channels, and gets 2; pass inputs of that width, or make it"
            " Conv2d(2, ...)",
        ),
        (
            net(),
            (X, Y[:8]),
            CE,
            "there are 8 targets for 16 outputs; pass as many targets as examples, in the same"
            " order",
        ),
    ],
)
def test_nothing_else_is_said_where_it_would_not_help(
    model: Any, given: Any, named: Any, last: str
) -> None:
    assert told(model, given, named) == last


def test_the_place_is_known_whatever_a_forward_calls_itself() -> None:
    class Inner(nn.Linear):
        def forward(this, x: Tensor) -> Tensor:  # noqa: N805
            return super().forward(x).view(5, -1)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.Sequential(Inner(4, 3))

        def forward(net, *inputs: Tensor) -> Any:  # noqa: N805
            return net.part(*inputs)

    assert told(Outer(), (X, Y), CE) == "raised in part.0 (Inner)"

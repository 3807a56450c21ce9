"""What users hand over first works, or is told in words that say what to pass instead."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from pytest_gradhealth import ProbeError, assert_healthy, probe
from pytest_gradhealth.formatting import told
from pytest_gradhealth.remedies.trial import treat
from tests.helpers.nets import mlp
from tests.helpers.notes import Notes
from tests.helpers.remedies import BY_NAME
from tests.helpers.state import unchanged
from tests.helpers.switches import deterministic, in_double

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 3
POINTS = torch.rand(32, 2, generator=torch.Generator().manual_seed(1)).requires_grad_()
cross_entropy = F.cross_entropy


def net(inputs: int = 4, classes: int = 3) -> nn.Sequential:
    return mlp(nn.Tanh, width=16, hidden=2, inputs=inputs, classes=classes)


def sick() -> nn.Sequential:
    return mlp(nn.Sigmoid, width=16, hidden=10, inputs=4, classes=3)


class Wrapped(nn.Module):
    """Layers behind a forward that is given; it gets them and what the model is called with."""

    def __init__(self, forward: Callable[..., Any] | None = None, body: Any = None) -> None:
        super().__init__()
        self.body, self.way = body or net(), forward


class Batched(Wrapped):
    def forward(self, batch: Any) -> Any:
        assert self.way is not None
        return self.way(self.body, batch)


class Two(Wrapped):
    def forward(self, a: Any, b: Any) -> Any:
        return self.body(torch.cat([a, b], 1))


class Alone(Wrapped):
    def forward(self) -> Any:
        return self.body(X)


class Encoder(Wrapped):
    def encode(self, x: Any) -> Any:
        return self.body(x)


def two() -> Two:
    return Two(None, net(8))


class Arc(nn.Module):
    """A loss with weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        logits = F.normalize(outputs) @ F.normalize(self.weight).T
        return cross_entropy(16 * logits, targets)


def decayed(model: nn.Module) -> Callable[[Any, Any], Tensor]:
    """A loss that closes over the model."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets) + 1e-3 * sum(
            p.square().sum() for p in model.parameters()
        )

    return loss


def residual(points: Tensor, values: Tensor) -> Tensor:
    """A differential equation, for a loss that closes over its input, or gets it as targets."""
    (slope,) = torch.autograd.grad(values.sum(), points, create_graph=True)
    return (slope[:, :1] + values * slope[:, 1:]).square().mean()


def own_loss(body: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    return cross_entropy(body(batch["x"]), batch["y"])


def spread_out(body: nn.Module, x: Tensor) -> Any:
    mean, scale = body(x).chunk(2, 1)
    return Independent(Normal(mean, F.softplus(scale)), 1)


class Biased(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.out = nn.Linear(8, 8)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        out: Tensor = self.out(x + self.attention(x, x, x, attn_mask=bias)[0])
        return out


def holed() -> Tensor:
    x = X.clone()
    x[0, 0] = math.nan
    return x


BATCH = {"x": X, "y": Y}
CE: dict[str, Any] = {"loss": cross_entropy}
MASK = torch.full((6, 6), -math.inf).triu(1)
closing, drilled = net(), sick()

#: By name: a model, what it is called with, and the verdict.
WORKS: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any], str]] = {
    "loss over its input": (
        net(2, 1),
        (POINTS,),
        {"loss": lambda u: residual(POINTS, u)},
        "loss <lambda>",
    ),
    "input as targets": (
        net(2, 1),
        (POINTS, POINTS),
        {"loss": lambda u, x: residual(x, u)},
        "loss <lambda>",
    ),
    "loss with weights": (net(), (X, Y), {"loss": Arc()}, "loss Arc"),
    "loss over the model": (closing, (X, Y), {"loss": decayed(closing)}, "loss loss"),
    "mapping for one argument": (
        Batched(lambda body, batch: body(batch["x"])),
        (BATCH, Y),
        CE,
        "loss cross_entropy",
    ),
    "mapping in a tuple": (
        Batched(lambda body, batch: body(batch["x"])),
        ((BATCH,), Y),
        CE,
        "loss cross_entropy",
    ),
    "loss and logits out": (
        Batched(lambda body, b: {"loss": own_loss(body, b), "logits": body(b["x"])}),
        (BATCH,),
        {},
        "the model's own loss",
    ),
    "loss and logs out": (
        Batched(lambda body, b: (own_loss(body, b), {"accuracy": 0.5})),
        (BATCH,),
        {},
        "the model's own loss (number 1 of 2)",
    ),
    "loss and numbers out": (
        Batched(lambda body, b: (own_loss(body, b), torch.ones(2))),
        ((BATCH,),),
        {},
        "the model's own loss (number 1 of 2)",
    ),
    "tuple for one argument": (
        Batched(lambda body, b: cross_entropy(body(b[0]), b[1])),
        ((X, Y),),
        {},
        "the model's own loss",
    ),
    "list for one argument": (
        Batched(lambda body, b: cross_entropy(body(b[0]), b[1])),
        ([X, Y],),
        {},
        "the model's own loss",
    ),
    "list for two arguments": (two(), ([X, X], Y), CE, "loss cross_entropy"),
    "targets for two arguments": (
        net(),
        (X, (Y, Y)),
        {"loss": lambda out, a, b: cross_entropy(out, a) + cross_entropy(out, b)},
        "loss <lambda>",
    ),
    "loss that returns logs": (
        net(),
        (X, Y),
        {"loss": lambda out, y: (cross_entropy(out, y), {"ce": 1})},
        "loss <lambda> (number 1 of 2)",
    ),
    "loss that returns its parts": (
        net(),
        (X, Y),
        {"loss": lambda out, y: {"ce": cross_entropy(out, y), "size": out.square().mean()}},
        "loss <lambda> (the sum of ce and size)",
    ),
    "one example": (net(), (X[:1], Y[:1]), CE, "loss cross_entropy"),
    "inputs ()": (Alone(), ((), Y), CE, "loss cross_entropy"),
    "inputs {}": (Alone(), ({}, Y), CE, "loss cross_entropy"),
    "inputs None": (Alone(), (None, Y), CE, "loss cross_entropy"),
    "distribution": (
        Batched(spread_out, net(4, 4)),
        (X, X[:, :2]),
        {"loss": lambda out, y: -out.log_prob(y).mean()},
        "loss <lambda>",
    ),
    "no columns first": (
        two(),
        ((X.repeat(1, 2)[:, :8], torch.zeros(16, 0)), Y),
        CE,
        "loss cross_entropy",
    ),
    "NaN for missing inputs": (
        Batched(lambda body, x: body(torch.cat([x.nan_to_num(), x.isnan().float()], 1)), net(8)),
        (holed(), Y),
        CE,
        "loss cross_entropy",
    ),
    "NaN for missing targets": (
        net(4, 4),
        (X, holed()),
        {"loss": lambda out, y: (out - y)[~y.isnan()].square().mean()},
        "loss <lambda>",
    ),
    "-inf in a bias": (
        Biased(),
        ((torch.randn(4, 6, 8), MASK), torch.randn(4, 6, 8)),
        {"loss": F.mse_loss},
        "loss mse_loss",
    ),
    "no loss": (net(), (X,), {}, "a random direction of the outputs"),
    "call": (
        Encoder(),
        (X, Y),
        {**CE, "call": lambda model, x: model.encode(x)},
        "loss cross_entropy",
    ),
    "call with two arguments": (
        nn.ModuleDict({"a": net(8)}),
        ([X, X], Y),
        {**CE, "call": lambda model, a, b: model["a"](torch.cat([a, b], 1))},
        "loss cross_entropy",
    ),
    "call that makes the loss": (
        Encoder(),
        (BATCH,),
        {"call": lambda model, batch: own_loss(model.body, batch)},
        "the model's own loss",
    ),
    "call by keywords": (
        Encoder(),
        (BATCH,),
        {"call": lambda model, x, y: cross_entropy(model.encode(x), y)},
        "the model's own loss",
    ),
}


def everything(model: Any, arguments: tuple[Any, ...], loss: Any) -> AbstractContextManager[None]:
    """What has to be as it was afterwards."""
    flat: list[Any] = [*arguments]
    found = []
    while flat:
        value = flat.pop()
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list, dict)):
            flat += value.values() if isinstance(value, dict) else value
    if isinstance(loss, nn.Module):
        model = nn.ModuleList([model, loss])
    return cast("AbstractContextManager[None]", unchanged(model, *found))


@pytest.mark.parametrize(("model", "given", "named", "objective"), WORKS.values(), ids=[*WORKS])
def test_it_works_and_says_what_was_differentiated(
    model: Any, given: Any, named: Any, objective: str
) -> None:
    with everything(model, given, named.get("loss")):
        diagnosis = probe(model, *given, **named)
    assert diagnosis.verdict == "healthy", diagnosis
    assert diagnosis.profile.objective == objective
    assert f" on cpu, {objective}, " in str(diagnosis)


@pytest.mark.parametrize(
    "within",
    [
        torch.no_grad,
        torch.autograd.detect_anomaly,
        deterministic,
        in_double,
    ],
    ids=["no_grad", "detect_anomaly", "deterministic", "float64"],
)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_it_works_in_whatever_mode(within: Callable[[], Any]) -> None:
    with within():
        model = net()
        x = X.to(torch.get_default_dtype())
        assert probe(model, x, Y, loss=cross_entropy).verdict == "healthy"


SICK: dict[str, tuple[Any, Any, Any]] = {
    "loss over the model": (drilled, X, {"loss": decayed(drilled)}),
    "call": (Encoder(None, sick()), X, {**CE, "call": lambda model, x: model.encode(x)}),
    "mapping": (Batched(lambda body, batch: body(batch["x"]), sick()), BATCH, CE),
}


@pytest.mark.parametrize(("model", "inputs", "named"), SICK.values(), ids=[*SICK])
def test_it_fails_where_it_is_sick_and_so_does_its_copy(
    model: Any, inputs: Any, named: Any
) -> None:
    with everything(model, (inputs, Y), None):
        diagnosis = probe(model, inputs, Y, **named)
    assert [finding.code for finding in diagnosis.findings if finding.complains] == ["GH101"]
    assert [look.steps for look in diagnosis.profiles] == [0, 5]


def test_remedies_are_tried_with_the_call() -> None:
    diagnosis = probe(Encoder(None, sick()), X, Y, **CE, call=Encoder.encode)
    failures = [finding for finding in diagnosis.findings if finding.severity == "failure"]
    (treatment,) = treat(diagnosis, failures, [BY_NAME["ReLU"]], 60.0)
    assert treatment.outcome == "cured"


def test_a_call_uses_the_model_that_it_gets_where_it_is_to_be_copied() -> None:
    """One that a closure leads to is found on the copy, and one of a global name is not."""
    model = sick()
    diagnosis = probe(model, X, Y, **CE, call=lambda _, x: model(x))
    assert [look.steps for look in diagnosis.profiles] == [0, 5]
    with pytest.raises(ProbeError) as caught:
        probe(drilled, X, Y, **CE, call=lambda _, x: drilled(x))
    assert str(caught.value) == (
        "a copy of Sequential does not compute with its own parameters (does it keep a function"
        " that holds on to the model?), so that it cannot be trained to confirm a verdict; have"
        " call use the model that it gets, or pass confirm_steps=0 to judge the first look alone"
    )


FACTORY = (
    "a factory is called without arguments, for example lambda: Net(width=64); what takes a batch"
    " goes with its model: probe(model, x, call=...)"
)
IN_0 = "\n  raised in 0 (Linear)"
FORWARD = "Sequential.forward raised {told}\n  it was called with "
LOSS = "loss {name} raised {told}\n  it was called with outputs: (16, 3) float32; targets: "
LAMBDA = LOSS.replace("{name}", "<lambda>")
ENTROPY = LOSS.replace("{name}", "cross_entropy")
LABELS = "(16,) int64"
PAIR = "(16, 4) float32, (16,) int64"
loader = DataLoader(TensorDataset(X, Y), 16)

#: By name: a model, what it is called with, and the words, with the cause where {told} is.
TOLD: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any], str]] = {
    "NumPy": (
        net(),
        (X.numpy(), Y),
        CE,
        FORWARD + f"ndarray{IN_0}\n  the inputs are of numpy (ndarray); pass a tensor:"
        " torch.as_tensor(x)",
    ),
    "NumPy float64": (
        net(),
        (({"input": X.double().numpy()}), Y),
        CE,
        FORWARD + f"dict{IN_0}\n  the inputs are of numpy (ndarray); pass a tensor:"
        " torch.as_tensor(x, dtype=torch.float32)",
    ),
    "NumPy targets": (
        net(),
        (X, Y.numpy()),
        CE,
        ENTROPY + "ndarray\n  the targets are of numpy (ndarray); pass a tensor:"
        " torch.as_tensor(y)",
    ),
    "numbers": (
        net(),
        (X.tolist(), Y),
        CE,
        FORWARD + f"list{IN_0}\n  the inputs are plain numbers; pass a tensor: torch.tensor(x)",
    ),
    "text": (
        net(),
        (["a", "b"], Y),
        CE,
        FORWARD + f"list{IN_0}\n  the inputs are text; pass the numbers that a tokenizer makes of"
        " it",
    ),
    "loader": (
        net(),
        (loader,),
        CE,
        FORWARD + f"DataLoader{IN_0}\n  the inputs are a DataLoader; pass a batch of it: x, y ="
        " next(iter(loader))",
    ),
    "dataset": (
        net(),
        (loader.dataset,),
        CE,
        FORWARD + f"TensorDataset{IN_0}\n  the inputs are a TensorDataset; pass a batch of it: x, y"
        " = next(iter(DataLoader(dataset, 16)))",
    ),
    "iterator": (
        net(),
        (iter([X]),),
        CE,
        FORWARD + f"list_iterator{IN_0}\n  the inputs are a list_iterator; pass a batch that comes"
        " out of it: x, y = next(batches)",
    ),
    "object": (
        net(),
        (object(),),
        CE,
        FORWARD + f"object{IN_0}\n  the inputs are of class object; pass tensors, or tuples, lists"
        " and mappings of tensors",
    ),
    "pair in a tuple": (
        net(),
        ((X, Y),),
        CE,
        FORWARD + f"{PAIR}{IN_0}\n  the inputs are a tuple of two; pass inputs and targets apart,"
        " behind the model",
    ),
    "pair in a list": (
        net(),
        ([X, Y],),
        CE,
        FORWARD + f"{PAIR}{IN_0}\n  the inputs are a list of two; pass inputs and targets apart,"
        " behind the model",
    ),
    "pair of a pair": (
        two(),
        (((X, X), Y),),
        CE,
        "Two.forward raised {told}\n  it was called with (16, 4) float32, " + PAIR + "\n  the"
        " inputs are a tuple of two; pass inputs and targets apart, behind the model",
    ),
    "no inputs": (
        net(),
        (None, Y),
        CE,
        FORWARD + f"None{IN_0}\n  no inputs were given; pass a batch behind the model",
    ),
    "too few": (
        two(),
        ((X,), Y),
        CE,
        "Two.forward raised {told}\n  it was called with (16, 4) float32\n  forward takes a and b;"
        " a tuple is spread over that, a mapping over the names",
    ),
    "labels in the mapping": (
        two(),
        ({"a": X, "b": X, "labels": Y},),
        CE,
        "Two.forward raised {told}\n  it was called with (16, 4) float32, (16, 4) float32, (16,)"
        " int64\n  forward takes a and b, not labels; pass what only the loss needs as targets",
    ),
    "misspelt": (
        two(),
        ({"a": X, "bb": X}, Y),
        CE,
        "Two.forward raised {told}\n  it was called with (16, 4) float32, (16, 4) float32\n "
        " forward takes a and b, not bb; did you mean b?",
    ),
    "no forward": (
        Encoder(),
        (X, Y),
        CE,
        "Encoder.forward raised {told}\n  it was called with (16, 4) float32\n  pass what calls it"
        " in place of a forward, for example call=lambda model, x: model.encode(x)",
    ),
    "modules by name": (
        nn.ModuleDict({"g": net()}),
        (X, Y),
        CE,
        "ModuleDict.forward raised {told}\n  it was called with (16, 4) float32\n  pass what calls"
        " it in place of a forward, for example call=lambda model, x: model['g'](x)",
    ),
    "call that raises": (
        net(),
        (X, Y),
        {**CE, "call": lambda model, x: model.encode(x)},
        "call <lambda> raised {told}\n  it was called with (16, 4) float32",
    ),
    "call with too many": (
        net(),
        ((X, X), Y),
        {**CE, "call": lambda model, x: model(x)},
        "call <lambda> raised {told}\n  it was called with (16, 4) float32, (16, 4) float32"
        + IN_0
        + "\n  the inputs are a tuple, which went as one argument; pass one tensor: torch.stack(x)",
    ),
    "call of a method": (
        net(),
        (X, Y),
        {**CE, "call": Encoder().encode},
        "call encode raised {told}\n  it was called with (16, 4) float32\n  call gets the model"
        " before the inputs: call=lambda model, x: ...",
    ),
    "call by name": (
        net(),
        (X, Y),
        {**CE, "call": "encode"},
        "call is 'encode'; pass a function of the model and its inputs, for example lambda model,"
        " x: model.encode(x)",
    ),
    "method for a model": (
        Encoder().encode,
        (X, Y),
        CE,
        f"the model factory encode raised {{told}}; {FACTORY}",
    ),
    "class for a model": (
        nn.Linear,
        (X, Y),
        CE,
        "the model factory Linear raised {told}; a factory is called without arguments, for example"
        " lambda: Net(width=64)",
    ),
    "wrong width": (
        net(5),
        (X, Y),
        CE,
        FORWARD
        + f"(16, 4) float32{IN_0}\n  0 (Linear) takes 5 features, and gets 4; pass inputs of"
        " that width, or make it Linear(4, ...)",
    ),
    "whole numbers": (
        net(),
        (X.long(), Y),
        CE,
        FORWARD + f"(16, 4) int64{IN_0}\n  the inputs are int64, the parameters float32; pass"
        " x.float()",
    ),
    "float64": (
        net(),
        (X.double(), Y),
        CE,
        FORWARD + f"(16, 4) float64{IN_0}\n  the inputs are float64, the parameters float32; pass"
        " x.float()",
    ),
    "embedded floats": (
        nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), net(16)),
        (X, Y),
        CE,
        FORWARD + "(16, 4) float32\n  raised in 0 (Embedding)\n  an embedding takes whole numbers;"
        " pass x.long()",
    ),
    "bytes for a convolution": (
        nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(4, 3)),
        (X[:, None].byte(), Y),
        CE,
        FORWARD + "(16, 1, 4) uint8\n  raised in 0 (Conv1d)\n  the inputs are uint8, the parameters"
        " float32; pass x.float()",
    ),
    "loss class": (
        net(),
        (X, Y),
        {"loss": nn.CrossEntropyLoss},
        "loss is the class CrossEntropyLoss; pass an instance of it: loss=CrossEntropyLoss()",
    ),
    "loss as text": (
        net(),
        (X, Y),
        {"loss": "cross_entropy"},
        "loss is 'cross_entropy'; pass a function of outputs and targets, for example"
        " torch.nn.functional.cross_entropy",
    ),
    "loss swapped": (
        net(),
        (X, Y),
        {"loss": lambda y, out: cross_entropy(out, y)},
        LAMBDA + LABELS + "\n  a loss gets the outputs first, then the targets; pass loss=lambda"
        " outputs, targets: ...",
    ),
    "loss of three": (
        net(),
        (X, Y),
        {"loss": lambda out, y, weights: weights * cross_entropy(out, y)},
        LAMBDA + LABELS + "\n  it takes out, y and weights, and gets outputs and targets; pass"
        " loss=lambda outputs, targets: ...",
    ),
    "loss of one": (
        net(),
        (X, Y),
        {"loss": lambda out: out.mean()},
        LAMBDA + LABELS + "\n  it takes out, and gets outputs and targets; pass loss=lambda"
        " outputs, targets: ...",
    ),
    "loss not reduced": (
        net(),
        (X, Y),
        {"loss": nn.CrossEntropyLoss(reduction="none")},
        "the loss has shape (16,); reduce it to one number, for example with .mean()",
    ),
    "loss of several": (
        net(),
        (X, Y),
        {"loss": lambda out, y: (cross_entropy(out, y), out.square().mean())},
        "the loss is a tuple of several; return the scalar tensor that is to be differentiated",
    ),
    "loss a float": (
        net(),
        (X, Y),
        {"loss": lambda out, y: cross_entropy(out, y).item()},
        "the loss is a float, not a tensor; return the tensor itself, without .item() or float()",
    ),
    "loss that goes back": (
        net(),
        (X, Y),
        {"loss": lambda out, y: torch.autograd.backward(cross_entropy(out, y))},
        "the loss is None; return the tensor, without calling backward() on it",
    ),
    "loss of a tuple": (
        nn.LSTM(4, 3),
        (X, X[:, :3]),
        {"loss": F.mse_loss},
        "loss mse_loss raised {told}\n  it was called with outputs: (16, 3) float32, (1, 3)"
        " float32, (1, 3) float32; targets: (16, 3) float32\n  the model returns a tuple; pass"
        " loss=lambda outputs, targets: mse_loss(outputs[0], targets)",
    ),
    "no outputs": (
        Batched(lambda *_: None),
        (X, Y),
        CE,
        "loss cross_entropy raised {told}\n  it was called with outputs: None; targets: (16,) int64"
        "\n  the model returns None; have its forward return the outputs",
    ),
    "outputs in an object": (
        Batched(lambda body, x: {body(x)}),
        (X, Y),
        CE,
        "loss cross_entropy raised {told}\n  it was called with outputs: set; targets: (16,)"
        " int64\n  the model returns a set; pass loss=lambda outputs, targets: ...",
    ),
    "outputs in a mapping": (
        Batched(lambda body, x: {"scores": body(x)}),
        (X, Y),
        CE,
        ENTROPY + LABELS + "\n  the model returns a dict; pass loss=lambda outputs, targets:"
        " cross_entropy(outputs['scores'], targets)",
    ),
    "no targets": (
        net(),
        (X,),
        CE,
        ENTROPY + "None\n  no targets were given; pass them behind the inputs",
    ),
    "list of targets": (
        net(),
        (X, list(Y[:1])),
        CE,
        ENTROPY + "() int64\n  the targets are a list; pass one tensor, or loss=lambda outputs,"
        " targets: ...",
    ),
    "list of inputs": (
        net(),
        (list(X[:3]), Y),
        CE,
        FORWARD + "(4,) float32, (4,) float32, (4,) float32" + IN_0 + "\n  the inputs are a list,"
        " which went as one argument; pass one tensor: torch.stack(x)",
    ),
    "loss over a copy": (
        net(2, 1),
        (POINTS.detach(),),
        {"loss": lambda u: residual(POINTS, u)},
        "loss <lambda> raised {told}\n  it was called with outputs: (32, 1) float32; targets: None"
        "\n  the model got a copy of the batch: where the loss differentiates by it, pass a leaf"
        " that requires grad, x.detach().requires_grad_(), and have the loss use that",
    ),
    "float labels": (
        net(),
        (X, Y.float()),
        CE,
        ENTROPY + "(16,) float32\n  the targets are float32; pass y.long()",
    ),
    "whole one-hot labels": (
        net(),
        (X, F.one_hot(Y)),
        CE,
        ENTROPY + "(16, 3) int64\n  the targets are int64, the outputs float32; pass y.float()",
    ),
    "labels in a column": (
        net(),
        (X, Y[:, None]),
        CE,
        ENTROPY + "(16, 1) int64\n  the targets have shape (16, 1), the outputs (16, 3); pass"
        " y.squeeze(1)",
    ),
    "outputs in a column": (
        net(4, 1),
        (X, Y.float()),
        {"loss": F.binary_cross_entropy_with_logits},
        "loss binary_cross_entropy_with_logits raised {told}\n  it was called with outputs: (16, 1)"
        " float32; targets: (16,) float32\n  the targets have shape (16,), the outputs (16, 1);"
        " pass y.unsqueeze(1)",
    ),
    "distribution without a loss": (
        Batched(spread_out, net(4, 4)),
        (X,),
        {},
        "the model returns nothing a gradient can flow back from (Independent) and no loss was"
        " given; pass loss=... that computes one from what the model returns",
    ),
}


@pytest.mark.parametrize(("model", "given", "named", "words"), TOLD.values(), ids=[*TOLD])
def test_it_is_told_what_to_pass_instead(model: Any, given: Any, named: Any, words: str) -> None:
    watched = everything(model, given, None) if isinstance(model, nn.Module) else nullcontext()
    with watched, pytest.raises(ProbeError) as caught:
        probe(model, *given, **named)
    cause = caught.value.__cause__
    assert ("{told}" in words) == (cause is not None)
    name = "" if cause is None else told(cause)
    assert str(caught.value) == words.replace("{told}", name)
    assert type(caught.value) is ProbeError


def test_targets_of_a_model_that_takes_them_go_with_the_inputs() -> None:
    class Detector(Wrapped):
        def forward(self, images: Any, targets: Any = None) -> Any:
            assert targets is not None, "targets are needed"
            return cross_entropy(self.body(torch.stack(images)), torch.stack(targets))

    images, targets = list(X), list(Y)
    assert probe(Detector(), (images, targets)).verdict == "healthy"
    for given, words in (
        ((images, targets), "forward takes targets itself; pass (inputs, targets) as the inputs"),
        (
            ([images, targets],),
            "the inputs are a list, which is one argument; pass a tuple to have it spread",
        ),
    ):
        with pytest.raises(ProbeError) as caught:
            probe(Detector(), *given)
        assert str(caught.value).splitlines()[-1] == f"  {words}"


def test_what_a_model_takes_as_it_is_stays_as_it_is() -> None:
    """Arrays, numbers and text are a model's own affair, and so is what its hooks make of them."""

    def own(body: nn.Module, batch: Any) -> Any:
        array, number, text = batch
        assert type(array) is np.ndarray
        return body(torch.as_tensor(array)) * number * len(text)

    assert probe(Batched(own), [X.numpy(), 2, "a"], Y, loss=cross_entropy).verdict == "healthy"
    shown: Any = two()
    shown.forward = lambda *args: shown.body(torch.cat(args, 1))
    shown.forward.__signature__ = inspect.signature(lambda batch: batch)
    assert probe(shown, (X, X), Y, loss=cross_entropy).verdict == "healthy"
    hooked = Batched(lambda body, x: body(x))
    hooked.register_forward_pre_hook(lambda _, args: (args[0] + args[1],))
    assert probe(hooked, (X, X), Y, loss=cross_entropy).verdict == "healthy"


@pytest.mark.parametrize(
    "error",
    [KeyError("mine"), TypeError("of mine"), RuntimeError("a dtype"), ValueError("no target size")],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_the_users_own_gets_no_advice(error: Exception) -> None:
    def failing(*_: Any) -> Any:
        raise error

    def fine(body: nn.Module, batch: Any) -> Any:
        return body(batch[0])

    for way, loss in ((failing, cross_entropy), (fine, failing)):
        with pytest.raises(ProbeError) as caught:
            probe(Batched(way), [X, "a", 2, X.numpy()], (Y, "b"), loss=loss)
        assert len(str(caught.value).splitlines()) == 2


def test_assertions_take_a_call_and_share_its_probe(gradhealth: Any) -> None:
    calls, model = Notes[int](), Encoder()
    model.body[0].register_forward_hook(lambda *_: calls.append(1))

    def call(model: Any, x: Any) -> Any:
        return model.encode(x)

    for check in (gradhealth.assert_no_vanishing, assert_healthy, gradhealth.probe):
        assert check(model, X, Y, loss=cross_entropy, call=call).verdict == "healthy"
    assert len(calls) == 1
    gradhealth.assert_no_exploding(model, X, Y, loss=cross_entropy, call=lambda m, x: m.body(x))
    assert len(calls) == 2

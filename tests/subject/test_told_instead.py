"""Whatever stands where a model, a batch or a loss should, the last line says what to pass."""

from __future__ import annotations

import warnings
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from traceback import walk_tb
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, nll_loss

from pytest_gradhealth import ProbeError, probe
from pytest_gradhealth.errors import chain_of
from tests.helpers.nets import mlp
from tests.helpers.state import unchanged

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 3
Pair = namedtuple("Pair", "x y")


def net() -> nn.Sequential:
    return mlp(nn.Tanh, width=16, hidden=2, inputs=4, classes=3)


@dataclass
class Batch:
    image: Tensor
    label: Tensor


class Held:
    """A model in an estimator, which has one and is none."""

    def __init__(self) -> None:
        self.module_ = net()


class Unbegun(nn.Module):
    def __init__(self) -> None:
        self.body = net()


class Called(Held):
    def __call__(self, x: Tensor) -> Any:
        return self.module_(x)


class Way(nn.Module):
    """A net whose forward does something to what it is called with, or to what it returns."""

    def __init__(self, way: Callable[..., Any]) -> None:
        super().__init__()
        self.body, self.way = net(), way

    def forward(self, batch: Any) -> Any:
        return self.way(self.body, batch)


class ByName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = net()

    def forward(self, *, pixels: Tensor, mask: Any = None) -> Any:
        return self.body(pixels)


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = net()


def made_of(model: nn.Module, batch: Any) -> Any:
    return cross_entropy(model(batch[0]), batch[1])


class Loader:
    def __iter__(self) -> Any:
        return iter([(X, Y)])


class Array:
    """One of another library, which NumPy can read."""

    __module__ = "tensorflow.python.framework.ops"

    def __array__(self) -> Any:
        return X.numpy()


class Frame(Array):
    """Columns with a type each."""

    __module__ = "polars.dataframe.frame"
    dtypes = ("Float64", "Float64")


class Picture:
    __module__ = "PIL.Image"


class Later(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = net()

    def forward(self, x: Tensor) -> Any:
        yield self.body(x)


IS = "the inputs are a "
WENT = ", which went as one argument; pass "
FACTORY = "a factory is called without arguments, for example lambda: Net(width=64)"
CALL = "what takes a batch goes with its model: probe(model, x, call=...)"
NOT_THE_MODEL = (
    "a loss gets what the model returns, and not the model; pass this function as call=..., and"
    " what else it takes as the inputs"
)
ORDER = "a loss gets the outputs first, then the targets; pass loss=lambda outputs, targets: ..."
NUMPY = "no gradient comes through NumPy; have the {} compute the same in torch"

#: By name: a model, what it is called with, and the end of the last line.
TOLD: dict[str, tuple[Any, Any, Any, Any, str]] = {
    "namedtuple": (
        *(net(), Pair(X, Y), None, cross_entropy),
        f"{IS}Pair of two; pass inputs and targets apart, behind the model",
    ),
    "dataclass": (
        net(),
        Batch(X, Y),
        Y,
        cross_entropy,
        f"{IS}Batch{WENT}a part of it: batch.image",
    ),
    "dataclass of both": (
        *(net(), Batch(X, Y), None, cross_entropy),
        f"{IS}Batch{WENT}parts of it: batch.image, batch.label",
    ),
    "nested": (
        *(net(), {"a": {"b": [X]}}, Y, cross_entropy),
        f"{IS}dict{WENT}a part of it: batch['a']['b'][0]",
    ),
    "enumerated": (
        *(net(), (0, [X, Y]), None, cross_entropy),
        "the inputs are a number and a batch, as of enumerate(loader); pass the batch",
    ),
    "iterable": (
        *(net(), Loader(), None, cross_entropy),
        f"{IS}Loader; pass what comes out of it: x, y = next(iter(batches))",
    ),
    "another library": (
        *(net(), Array(), Y, cross_entropy),
        "the inputs are of tensorflow (Array); pass a tensor: torch.as_tensor(numpy.asarray(x))",
    ),
    "frame": (
        *(net(), Frame(), Y, cross_entropy),
        "the inputs are of polars (Frame); pass a tensor: torch.as_tensor(numpy.asarray(x),"
        " dtype=torch.float32)",
    ),
    "pictures": (
        *(nn.Sequential(nn.Conv2d(3, 2, 1), net()), [Picture()], Y, cross_entropy),
        "the inputs are pictures; pass tensors: torchvision.transforms.functional.to_tensor(x)",
    ),
    "shape": (
        *(net(), (16, 4), Y, cross_entropy),
        "the inputs look like a shape; pass a tensor of it: torch.randn(16, 4)",
    ),
    "function": (
        *(net(), lambda: X, Y, cross_entropy),
        "the inputs are a function; pass what it returns",
    ),
    "lengths that differ": (
        *(net(), [X[:5], X[:3]], Y, cross_entropy),
        f"{IS}list{WENT}one tensor: torch.nn.utils.rnn.pad_sequence(x)",
    ),
    "names of classes": (
        *(net(), X, ["cat", "dog"], cross_entropy),
        "the targets are text; pass the numbers of their classes",
    ),
    "width of attention": (
        *(nn.TransformerEncoderLayer(8, 2), X[None], torch.randn(1, 16, 8), cross_entropy),
        "self_attn (MultiheadAttention) takes 8 features, and gets 4; pass inputs of that width, or"
        " make it MultiheadAttention(4, ...)",
    ),
    "generator out": (
        *(Later(), X, Y, cross_entropy),
        "the model returns a generator; have its forward return, without async or yield",
    ),
    "generator from the loss": (
        *(net(), X, Y, lambda out, y: (cross_entropy(out, y) for _ in "a")),
        "the loss is a generator, not a tensor; return one, without async or yield",
    ),
    "complex inputs": (
        *(net(), X.to(torch.complex64), Y, cross_entropy),
        "the inputs are complex64, the parameters float32; pass torch.view_as_real(x), or x.abs()",
    ),
    "complex model": (
        *(nn.Linear(4, 3, dtype=torch.complex64), X, Y, cross_entropy),
        "the inputs are float32, the parameters complex64; pass x.to(torch.complex64)",
    ),
    "by name": (
        *(ByName(), X, Y, cross_entropy),
        "forward takes pixels and mask by name alone; pass {'pixels': x}",
    ),
    "another key": (
        *(Way(lambda body, batch: body(batch["images"])), {"image": X}, Y, cross_entropy),
        "the inputs hold image, and no 'images'; did you mean image?",
    ),
    "another key of targets": (
        *(net(), X, {"label": Y}, lambda out, t: cross_entropy(out, t["y"])),
        "the targets hold label, and no 'y'",
    ),
    "NumPy in the forward": (
        *(Way(lambda body, x: body(x).numpy()), X, Y, cross_entropy),
        NUMPY.format("forward"),
    ),
    "NumPy in the loss": (
        *(net(), X, Y, lambda out, _: out.numpy().mean()),
        NUMPY.format("loss"),
    ),
    "NumPy from the loss": (
        *(net(), X, Y, lambda out, y: cross_entropy(out, y).detach().numpy()),
        "the loss is of numpy (ndarray), and no tensor; compute it in torch, without .numpy()",
    ),
    "no forward": (
        *(Bare(), X, Y, cross_entropy),
        "pass what calls it in place of a forward, for example call=lambda model, x:"
        " model.encoder(x)",
    ),
    "floats out": (
        *(Way(lambda body, x: body(x).flatten().tolist()), X, Y, cross_entropy),
        "the model returns a list without a tensor; return tensors",
    ),
    "classes out": (
        *(Way(lambda body, x: body(x).argmax(1)), X, Y, cross_entropy),
        "the outputs are int64, which have no gradient; return the scores they are made of",
    ),
    "outputs of another library": (
        *(net(), X, Y, lambda out, y: cross_entropy(out.logits, y)),
        "the model returns a tensor, which has no logits; have the loss take it as it is",
    ),
    "loss swapped by name": (net(), X, Y, lambda y_true, y_pred: nll_loss(y_pred, y_true), ORDER),
    "loss of the model": (net(), X, Y, lambda model, batch: made_of(model, batch), NOT_THE_MODEL),
    "loss of model, x and y": (
        *(net(), X, Y, lambda model, x, y: made_of(model, (x, y))),
        NOT_THE_MODEL,
    ),
    "optimizer": (
        *(net(), X, Y, torch.optim.SGD),
        "loss is the optimizer SGD; pass it as optimizer=SGD",
    ),
    "loss class for targets": (
        *(net(), X, nn.CrossEntropyLoss, None),
        "targets is the function CrossEntropyLoss(); pass it as the loss: loss=CrossEntropyLoss()",
    ),
    "batch before model": (
        *(X, net(), Y, cross_entropy),
        "model is a Tensor; pass a torch.nn.Module, or a function without arguments that builds"
        " one, before the inputs",
    ),
    "state_dict": (
        *(net().state_dict(), X, Y, cross_entropy),
        "model is an OrderedDict; pass the model that these weights are of:"
        " model.load_state_dict(weights)",
    ),
    "layers": (
        *([nn.Linear(4, 3)], X, Y, cross_entropy),
        "model is [Linear(in_features=4, out_features=3, bias=True)]; pass one module, for example"
        " nn.Sequential(*layers)",
    ),
    "parameters": (
        *(net().parameters(), X, Y, cross_entropy),
        "model is a generator; pass a torch.nn.Module, or a function without arguments that builds"
        " one",
    ),
    "estimator": (
        *(Held(), X, Y, cross_entropy),
        "model is a Held; pass the module that it holds as module_",
    ),
    "estimator that is called": (
        *(Called(), X, Y, cross_entropy),
        "the model factory Called raised TypeError: Called.__call__() missing 1 required positional"
        " argument: 'x'; pass the module that it holds as module_",
    ),
    "factory of a width": (
        *(lambda width: nn.Linear(4, width), X, Y, cross_entropy),
        f"missing 1 required positional argument: 'width'; {FACTORY}; {CALL}",
    ),
    "examples": (
        *(net(), [*zip(X, Y, strict=True)], None, cross_entropy),
        f"the inputs are {len(X)} examples; pass a batch of them:"
        " x, y = torch.utils.data.default_collate(examples)",
    ),
    "in place": (
        *(Way(lambda body, x: body(x).sigmoid().add_(1)), X, Y, cross_entropy),
        "the backward needs what was overwritten: x = x + 1 in place of x += 1 or x.add_(1), and no"
        " inplace=True behind it",
    ),
    "module without super": (
        *(Unbegun, X, Y, cross_entropy),
        "the model factory Unbegun raised AttributeError: cannot assign module before"
        " Module.__init__() call; call super().__init__() first in the __init__ of the module",
    ),
    "factory of a pair": (
        *(lambda: (net(), None), X, Y, cross_entropy),
        "the model factory returned a tuple, not a torch.nn.Module; return one module",
    ),
    "forward with its batch": (
        *(partial(net(), X), X, Y, cross_entropy),
        "the model factory returned a Tensor, not a torch.nn.Module",
    ),
}


@pytest.mark.parametrize(
    ("model", "inputs", "targets", "loss", "words"), TOLD.values(), ids=[*TOLD]
)
def test_the_last_line_says_what_to_pass(
    model: Any, inputs: Any, targets: Any, loss: Any, words: str
) -> None:
    with (
        unchanged(model if isinstance(model, nn.Module) else net(), X, Y),
        pytest.raises(ProbeError) as caught,
    ):
        probe(model, inputs, targets, loss=loss)
    last = str(caught.value).splitlines()[-1].strip()
    assert last == words or (words.startswith("missing") and last.endswith(words))
    frames = {
        frame.f_globals["__name__"].partition(".")[0]
        for error in chain_of(caught.value)
        if error is not caught.value
        for frame, _ in walk_tb(error.__traceback__)
    }
    assert frames <= {"tests"}


def test_a_loss_may_return_a_list_of_itself_and_what_is_logged() -> None:
    for logs in (0.5, torch.ones(2), {"accuracy": 1}):
        diagnosis = probe(net(), X, Y, loss=lambda out, y, logs=logs: [cross_entropy(out, y), logs])
        assert diagnosis.verdict == "healthy"
        assert diagnosis.profile.objective == "loss <lambda> (number 1 of 2)"


def test_a_class_among_the_inputs_stays_what_it_is() -> None:
    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net()

        def forward(self, x: Tensor, kind: type[nn.Module]) -> Any:
            assert kind is nn.Tanh
            return kind()(self.body(x))

    assert probe(Chosen(), (X, nn.Tanh), Y, loss=cross_entropy).verdict == "healthy"


def test_layers_that_are_quantized_are_told_apart_from_those_in_lists() -> None:
    class Quantized(nn.Module):
        __module__ = "torch.ao.nn.quantized.modules"

    with pytest.raises(ProbeError) as caught:
        probe(nn.Sequential(Quantized()), X, Y, loss=cross_entropy)
    assert str(caught.value) == (
        "Sequential has no parameters, so there is no gradient to check; quantized layers are not"
        " trained: pass the model as it was before"
    )


def test_of_what_torch_says_of_all_its_backends_the_first_sentence_is_told() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that nested tensors are a prototype
        x = torch.nested.nested_tensor([X, X[:3]])
    with pytest.raises(ProbeError) as caught:
        probe(net(), x, loss=lambda out: torch.nested.to_padded_tensor(out, 0.0).square().mean())
    assert str(caught.value) == (
        "the backward pass raised NotImplementedError: Could not run 'aten::tanh_backward' with"
        " arguments from the 'NestedTensorCPU' backend."
    )


def test_of_what_torch_could_be_called_with_nothing_is_told() -> None:
    with pytest.raises(ProbeError) as caught:
        probe(nn.Sequential(nn.Conv2d(3, 2, 1), net()), [Picture()], Y, loss=cross_entropy)
    assert str(caught.value).splitlines() == [
        "Sequential.forward raised TypeError: conv2d() received an invalid combination of arguments"
        " - got (list, Parameter, Parameter, tuple, tuple, tuple, int)",
        "  it was called with list",
        "  raised in 0 (Conv2d)",
        "  " + TOLD["pictures"][-1],
    ]

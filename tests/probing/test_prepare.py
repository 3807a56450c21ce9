"""Models and factories that cannot be probed are refused in words that say what to pass instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pytest_gradhealth import probe
from tests.helpers.nets import batch, mlp
from tests.helpers.refusals import Nameless, check, raising, refusal


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            5,
            "model is 5; pass a torch.nn.Module, or a function without arguments that builds one",
        ),
        (
            {"weight": 1},
            "model is {'weight': 1}; pass a torch.nn.Module, or a function without arguments that"
            " builds one",
        ),
        (lambda: None, "the model factory returned None, not a torch.nn.Module"),
        (
            mlp().requires_grad_(False),
            "no parameter of Sequential requires grad; call model.requires_grad_(True), or pass the"
            " model before it is frozen",
        ),
        (
            lambda: nn.ReLU(),
            "ReLU has no parameters, so there is no gradient to check; layers and parameters in"
            " plain lists or dicts are not registered: keep them in nn.ModuleList or"
            " nn.ParameterList",
        ),
        (
            nn.Sequential(nn.ReLU(), nn.LazyLinear(5)),
            "1.weight is a lazy parameter without a shape; call the model once on a batch before"
            " the probe",
        ),
        (
            nn.Sequential(nn.Linear(20, 5), nn.LazyBatchNorm1d(affine=False)),
            "1.running_mean is a lazy buffer without a shape; call the model once on a batch before"
            " the probe",
        ),
        (
            nn.Sequential(nn.Linear(20, 5), nn.Linear(5, 5, device="meta")),
            "1.weight is on the meta device and holds no numbers; materialise the model first, for"
            " example with model.to_empty(device='cpu') and its initialisation",
        ),
        (
            nn.Sequential(nn.Linear(20, 5), nn.BatchNorm1d(5, affine=False, device="meta")),
            "1.running_mean is on the meta device and holds no numbers; materialise the model"
            " first, for example with model.to_empty(device='cpu') and its initialisation",
        ),
    ],
    ids=[
        "int",
        "dict",
        "no module",
        "frozen",
        "empty",
        "lazy",
        "lazy buffer",
        "meta",
        "meta buffer",
    ],
)
def test_models_that_cannot_be_probed(model: Any, message: str) -> None:
    check(refusal(model), message)


@pytest.mark.parametrize(
    ("factory", "name", "cause", "text"),
    [
        (raising, "raising", KeyError, "'nothing'"),
        (Nameless(), "Nameless", KeyError, "'nothing'"),
        (lambda: 1 / 0, "<lambda>", ZeroDivisionError, "division by zero"),
    ],
)
def test_a_factory_that_raises(factory: Any, name: str, cause: type[Exception], text: str) -> None:
    check(
        refusal(factory),
        f"the model factory {name} raised {cause.__name__}: {text}; a factory is called without"
        " arguments, for example lambda: Net(width=64)",
        cause,
    )


def test_a_class_that_needs_arguments() -> None:
    error = refusal(nn.Linear)
    assert str(error).startswith("the model factory Linear raised TypeError: ")
    assert str(error).endswith("called without arguments, for example lambda: Net(width=64)")
    assert isinstance(error.__cause__, TypeError)


def test_a_model_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = mlp()
    check(
        refusal(model),
        "0.weight was made in inference mode and can never get a gradient; build the model outside"
        " torch.inference_mode()",
    )


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_a_scripted_model() -> None:
    message = (
        " holds a ScriptModule, which takes no hooks; pass the model as it was before"
        " torch.jit.script or torch.jit.trace"
    )
    scripted = torch.jit.script(mlp())
    check(refusal(scripted), f"{type(scripted).__name__}{message}")
    check(refusal(nn.Sequential(nn.Linear(20, 20), scripted)), f"Sequential{message}")


class Forwarding(nn.Module):
    """A wrapper that answers for what it wraps, as those of adapters do."""

    def __init__(self, net: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.net, self.head = net, head

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("net"), name)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.net(x))
        return out


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


class Named(nn.Module):
    """A model with layers of the names that wrappers of torch's have."""

    def __init__(self, name: str, head: nn.Module) -> None:
        super().__init__()
        self.add_module(name, nn.Linear(20, 20))
        self.name, self.head = name, head

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.get_submodule(self.name)(x))
        return out


@pytest.mark.parametrize(
    "wrap",
    [
        lambda sick: Forwarding(nn.Linear(20, 20), sick),
        lambda sick: Forwarding(compiled(nn.Linear(20, 20)), sick),
        lambda sick: Named("_orig_mod", sick),
        lambda sick: Named("module", sick),
        lambda sick: compiled(Named("_orig_mod", sick)),
    ],
)
def test_a_wrapper_is_measured_whole(wrap: Callable[[nn.Module], nn.Module]) -> None:
    x, y = batch()
    diagnosis = probe(wrap(mlp(nn.Sigmoid, hidden=10)), x, y, loss=cross_entropy)
    assert diagnosis.verdict == "failure"
    assert diagnosis.model in ("Forwarding", "Named")
    assert len(diagnosis.profile.outputs) > 20


def in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


@pytest.mark.parametrize(
    "make",
    [compiled, in_place, lambda sick: nn.Sequential(nn.Linear(20, 20), compiled(sick))],
    ids=["wrapped", "in place", "a part"],
)
def test_a_probe_of_what_is_compiled_says_that_it_is_measured_eagerly(
    make: Callable[[nn.Module], nn.Module],
) -> None:
    x, y = batch()
    plain, model = mlp(nn.Sigmoid, hidden=10), make(mlp(nn.Sigmoid, hidden=10))
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert diagnosis.eager
    setting = str(diagnosis).split("\n\n")[1]
    assert setting.startswith("Sequential on cpu, measured eagerly, loss cross_entropy, ")
    assert not probe(plain, x, y, loss=cross_entropy).eager
    factory = probe(lambda: make(mlp(nn.Sigmoid, hidden=10)), x, y, loss=cross_entropy)
    assert factory.eager

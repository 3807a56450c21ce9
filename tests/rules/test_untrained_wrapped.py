"""What an optimizer holds is seen through what people wrap around models and optimizers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.fusion import fuse_linear_bn_eval
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LinearLR, OneCycleLR, SequentialLR, StepLR
from torch.optim.swa_utils import SWALR, AveragedModel

from pytest_gradhealth import probe
from tests.helpers.architectures import Wired
from tests.helpers.findings import told
from tests.helpers.nets import batch, mlp
from tests.helpers.optimizers import LookAhead, Sharpness
from tests.helpers.state import unchanged

Made = tuple[nn.Module, Any]


def net() -> Wired:
    return Wired(lambda m, x: m.head(F.relu(m.body(x))), body=mlp(), head=nn.Linear(5, 5))


def with_(model: Wired, made: Callable[[Wired], Any]) -> Made:
    return model, made(model)


def accelerated(model: nn.Module, *optimizers: Optimizer) -> Made:
    accelerate = pytest.importorskip("accelerate")
    model, *prepared = accelerate.Accelerator(cpu=True).prepare(model, *optimizers)
    return model, prepared


def in_backward(model: nn.Module, *parts: nn.Module) -> Made:
    """Each parameter is stepped as soon as it has its gradient, by an optimizer of its own."""
    own = {p: SGD([p], lr=0.1) for part in parts for p in part.parameters()}

    def step(parameter: Any) -> None:
        own[parameter].step()
        own[parameter].zero_grad()

    for parameter in own:
        parameter.register_post_accumulate_grad_hook(step)  # type: ignore[no-untyped-call]
    return model, [*own.values()]


def changed(change: Callable[[Any], Any], *, later: bool) -> Made:
    """A model with a layer that something was done to, before its optimizer was made or later."""
    model = net()
    optimizer: Optimizer | None = Adam(model.parameters()) if later else None
    change(model)
    return model, optimizer or Adam(model.parameters())


def pruned_for_good(model: Any) -> None:
    prune.l1_unstructured(model.head, "weight", 0.3)  # type: ignore[no-untyped-call]
    prune.remove(model.head, "weight")  # type: ignore[no-untyped-call]


def fused(model: Any) -> None:
    norm = nn.BatchNorm1d(5).eval()
    model.head = fuse_linear_bn_eval(model.head.eval(), norm).train()


def compiled_head(model: Any) -> None:
    model.head = torch.compile(model.head, backend="eager")


def weight_normed_no_more(model: Any) -> None:
    parametrize.remove_parametrizations(model.head, "weight")


def normed_and_back() -> Made:
    model = net()
    parametrizations.weight_norm(model.head)
    optimizer = Adam(model.parameters())
    weight_normed_no_more(model)
    return model, optimizer


def scheduled(schedule: Callable[[Optimizer], Any]) -> Made:
    model = net()
    optimizer = SGD(model.parameters(), lr=0.05)
    schedule(optimizer)
    return model, optimizer


def averaged() -> Made:
    model = net()
    optimizer = SGD(model.parameters(), lr=0.05)
    AveragedModel(model)
    SWALR(optimizer, swa_lr=0.01)
    return model, optimizer


def matrices_apart() -> Made:
    model = net()
    matrices = [p for p in model.parameters() if p.dim() == 2]
    rest = [p for p in model.parameters() if p.dim() != 2]
    muon = getattr(torch.optim, "Muon", SGD)
    return model, [muon(matrices, lr=1e-3), Adam(rest)]


def compiled_whole() -> Made:
    model: Any = torch.compile(net(), backend="eager")
    return model, Adam(model.parameters())


def with_more_to_train() -> Made:
    """Tensors that are no part of the model: a latent code, the weights of a loss."""
    model = net()
    return model, Adam([*model.parameters(), torch.randn(3, requires_grad=True)])


HEALTHY: dict[str, Callable[[], Made]] = {
    "look ahead": lambda: with_(net(), lambda m: LookAhead(Adam(m.parameters()))),
    "sharpness": lambda: with_(net(), lambda m: Sharpness(m.parameters(), SGD, lr=0.05)),
    "sharpness, a factory": lambda: (net(), lambda ps: Sharpness(ps, SGD, lr=0.05)),
    "accelerate": lambda: accelerated(m := net(), Adam(m.parameters())),
    "in the backward": lambda: in_backward(m := net(), m),
    "weight norm": lambda: changed(lambda m: parametrizations.weight_norm(m.head), later=False),
    "spectral norm, later": lambda: changed(
        lambda m: parametrizations.spectral_norm(m.head), later=True
    ),
    "orthogonal, later": lambda: changed(lambda m: parametrizations.orthogonal(m.head), later=True),
    "pruned, later": lambda: changed(
        lambda m: prune.l1_unstructured(m.head, "weight", 0.3),  # type: ignore[no-untyped-call]
        later=True,
    ),
    "pruned for good, later": lambda: changed(pruned_for_good, later=True),
    "fused": lambda: changed(fused, later=False),
    "a compiled child, later": lambda: changed(compiled_head, later=True),
    "compiled": compiled_whole,
    "in double, later": lambda: changed(lambda m: m.double().float(), later=True),
    "averaged": averaged,
    "chained schedules": lambda: scheduled(
        lambda o: SequentialLR(o, [LinearLR(o, 1e-3), StepLR(o, 3)], [5])
    ),
    "one cycle": lambda: scheduled(lambda o: OneCycleLR(o, 0.1, total_steps=10)),
    "a rate that is a tensor": lambda: with_(
        net(), lambda m: Adam(m.parameters(), lr=torch.tensor(1e-3))
    ),
    "tensors at once": lambda: with_(net(), lambda m: Adam(m.parameters(), foreach=True)),
    "matrices apart": matrices_apart,
    "more to train": with_more_to_train,
}
HEAD = "2 parameters (head.weight and head.bias), which get a gradient"
SICK: dict[str, tuple[Callable[[], Made], str]] = {
    "look ahead": (lambda: with_(net(), lambda m: LookAhead(Adam(m.body.parameters()))), HEAD),
    "sharpness": (
        lambda: with_(net(), lambda m: Sharpness(m.body.parameters(), SGD, lr=0.05)),
        HEAD,
    ),
    "accelerate": (
        lambda: accelerated(m := net(), Adam(m.body[2:].parameters()), Adam(m.head.parameters())),
        "2 parameters (body.0.weight and body.0.bias), which get a gradient",
    ),
    "in the backward": (lambda: in_backward(m := net(), m.body), HEAD),
    "fused, later": (lambda: changed(fused, later=True), HEAD),
    "weight norm, later": (
        lambda: changed(lambda m: parametrizations.weight_norm(m.head), later=True),
        "2 parameters (head.parametrizations.weight.original0 and"
        " head.parametrizations.weight.original1), which get a gradient",
    ),
    "no weight norm, later": (
        normed_and_back,
        "1 parameter (head.weight), which gets a gradient",
    ),
    "one of many, a copy": (
        lambda: changed(lambda m: setattr(m, "head", copy.deepcopy(m.head)), later=True),
        HEAD,
    ),
}


@pytest.mark.parametrize("made", HEALTHY.values(), ids=list(HEALTHY))
def test_what_is_wrapped_is_healthy(made: Callable[[], Made]) -> None:
    assert said_of(*made()) == []


@pytest.mark.parametrize(("made", "missing"), SICK.values(), ids=list(SICK))
def test_what_is_missing_behind_wrappers(made: Callable[[], Made], missing: str) -> None:
    ((severity, _, message),) = said_of(*made())
    assert (severity, message) == ("failure", f"no optimizer holds {missing}")


def said_of(model: nn.Module, optimizer: Any) -> list[tuple[str, str, str]]:
    x, y = batch()
    with unchanged(model):
        diagnosis = probe(model, x, y, loss=F.cross_entropy, optimizer=optimizer)
    assert diagnosis.profile.holdings is not None
    return [found for found in told(diagnosis, "GH602") if found[0] != "info"]

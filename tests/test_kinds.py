"""Models of every kind: where their gradient is measured, and that nothing of them changes."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import Diagnosis, ProbeError, probe
from pytest_gradhealth.records import INPUT, OUTPUT, PathPoint
from tests import kinds
from tests.kinds import KINDS, Kind, body
from tests.nets import batch, mlp
from tests.test_isolation import unchanged

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:.*{text}")
    for text in ("prototype", "weight_norm", "deprecat", "reduce_range")
]

cross_entropy = nn.functional.cross_entropy


def built(kind: Kind, *, sick: bool = False) -> tuple[nn.Module, Any, Any]:
    """The model with a batch and targets, the same every time."""
    torch.manual_seed(1)
    return kind.build(sick), kind.inputs(), kind.targets()


def held(inputs: Any) -> list[Tensor]:
    """The tensors of a batch that the state check can read."""
    values = inputs.values() if isinstance(inputs, Mapping) else inputs
    found = [inputs] if isinstance(inputs, Tensor) else list(values)
    return [t for t in found if isinstance(t, Tensor) and not t.is_nested]


def probed(kind: Kind, *, sick: bool = False) -> Diagnosis:
    model, inputs, targets = built(kind, sick=sick)
    with unchanged(model, *held(inputs)):
        return probe(model, inputs, targets, loss=kind.loss)


def loss_of(kind: Kind, model: nn.Module, inputs: Any, targets: Any) -> Tensor:
    """The loss as a training loop computes it."""
    if isinstance(inputs, Mapping):
        outputs = model(**inputs)
    else:
        outputs = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    loss: Tensor = kind.loss(outputs, targets)
    return loss


def norm(gradient: Tensor) -> float:
    if gradient.is_nested:
        gradient = torch.cat([part.reshape(-1) for part in gradient.unbind()])
    return float(gradient.to_dense().abs().double().square().sum().sqrt())


def gradient_at(kind: Kind, point: PathPoint) -> float:
    """The gradient with respect to a zero that a forward hook adds to the output of a module."""
    model, inputs, targets = built(kind)
    shifts: list[Tensor] = []

    def shift(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        shifts.append(torch.zeros_like(output.detach()).requires_grad_())
        return output + shifts[-1]

    model = getattr(model, "_orig_mod", model)
    module = model if point.name == OUTPUT else model.get_submodule(point.name)
    handle = module.register_forward_hook(shift)
    with torch.compiler.set_stance("force_eager"):
        loss = loss_of(kind, model, inputs, targets)
    handle.remove()
    return norm(torch.autograd.grad(loss, shifts[point.call])[0])


KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.replace(" ", "-"))
TWIN = pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.twin], ids=lambda kind: kind.name.replace(" ", "-")
)
HOOKED = pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.hooked], ids=lambda kind: kind.name.replace(" ", "-")
)


@KIND
def test_a_healthy_model_of_every_kind_is_healthy(kind: Kind) -> None:
    diagnosis = probed(kind)
    assert diagnosis.verdict == "healthy"
    found = tuple((p.first.label, p.last.label, len(p.points)) for p in diagnosis.paths)
    assert found == kind.paths
    assert all(path.judged and path.finite for path in diagnosis.paths)
    assert len(diagnosis.profiles) == 1


@TWIN
def test_a_sick_twin_of_every_kind_fails(kind: Kind) -> None:
    diagnosis = probed(kind, sick=True)
    assert diagnosis.verdict == "failure"
    (first, *_) = [f for f in diagnosis.findings if f.code == "GH101"]
    assert first.severity == "failure"
    assert first.path is not None
    assert diagnosis.profile.paths[first.path].first.name == kind.twin


@HOOKED
def test_first_and_last_norms_are_those_of_a_shifted_output(kind: Kind) -> None:
    for path in probed(kind).paths:
        for point in (path.first, path.last):
            assert point.norm == pytest.approx(gradient_at(kind, point), rel=1e-5), point.label


@KIND
def test_norms_of_parameters_are_those_of_a_plain_backward(kind: Kind) -> None:
    model, inputs, targets = built(kind)
    with torch.compiler.set_stance("force_eager"):
        loss_of(kind, model, inputs, targets).backward()  # type: ignore[no-untyped-call]
    model = getattr(model, "_orig_mod", model)
    expected = {n: norm(p.grad) for n, p in model.named_parameters() if p.grad is not None}
    records = probed(kind).profile.parameters
    found = {p.name: p.gradient for p in records if p.gradient is not None}
    assert found == pytest.approx(expected, rel=1e-5)
    states = {p.state for p in records if p.name not in expected}
    assert states <= {"frozen"}

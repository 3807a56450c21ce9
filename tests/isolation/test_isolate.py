"""However a probe ends, models, batches, losses and optimizers are as they were before."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pytest_gradhealth import ProbeError, probe
from tests.helpers.nets import batch, mlp
from tests.helpers.notes import Notes
from tests.helpers.state import Doing, bits, busy, count, nothing, sick, unchanged, with_gradients

cross_entropy = nn.functional.cross_entropy


@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("hidden", [3, 10])
def test_a_busy_model_is_as_before(
    hidden: int, mode: Callable[[], AbstractContextManager[None]]
) -> None:
    (x, y), model = batch(), busy(nn.ReLU if hidden == 3 else nn.Sigmoid, hidden)
    criterion = nn.CrossEntropyLoss(weight=torch.ones(5))
    with mode(), unchanged(model, criterion, x, y):
        diagnosis = probe(model, x, y, loss=criterion)
    assert diagnosis.verdict == ("healthy" if hidden == 3 else "failure")
    assert len(diagnosis.profiles) == (1 if hidden == 3 else 2)


def test_the_check_itself_sees_changes() -> None:
    x, y = batch()
    model: Any = busy()
    for act in (model, lambda x: x.mul_(2), lambda _: model.body.train(), lambda _: torch.rand(1)):
        with pytest.raises(AssertionError), unchanged(model, x):
            act(x)
    with pytest.raises(AssertionError), unchanged(model):
        torch.autograd.backward(cross_entropy(model(x), y))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("model", [mlp(), sick()], ids=["healthy", "failing"])
def test_a_callers_grad_mode_does_not_change_the_verdict(
    model: nn.Module, mode: Callable[[], AbstractContextManager[None]]
) -> None:
    x, y = batch()
    outside = probe(model, x, y, loss=cross_entropy)
    with mode(), unchanged(model, x, y):
        inside = probe(model, x, y, loss=cross_entropy)
    assert (inside.verdict, inside.profiles) == (outside.verdict, outside.profiles)


class Breaks(torch.autograd.Function):
    """The identity, with a backward that raises."""

    error: type[BaseException] = ValueError

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(*_: Any) -> Any:
        raise Breaks.error("broken")


class Fault:
    """Raises when it is reached for the nth time."""

    def __init__(self, nth: int, error: type[BaseException] = ValueError) -> None:
        self.left, self.error = nth, error

    def __call__(self, *_: object) -> None:
        self.left -= 1
        if self.left <= 0:
            raise self.error("broken")


def broken(place: str, fault: Fault, model: Any) -> dict[str, Any]:
    """Put a fault into a model, or into the loss or the optimizer to probe it with."""

    class Stepper(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            fault()
            return super().step(closure)

    def backward(x: Tensor) -> Tensor:
        fault()
        return x.clone()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if place == "loss":
            fault()
        if place == "backward":
            outputs.register_hook(backward)  # type: ignore[no-untyped-call]
        return cross_entropy(outputs, targets)

    if place == "forward":
        model.append(Doing(fault, body=nn.Identity()))
    elif place == "pre-hook":
        model[0].register_forward_pre_hook(fault)
    elif place == "hook":
        model[1].register_forward_hook(fault)
    elif place == "backward hook":
        model[0].register_full_backward_hook(fault)
    elif place == "tensor hook":
        model[0].weight.register_hook(fault)
    return {"loss": loss, "optimizer": Stepper if place == "optimizer" else None}


PLACES = (
    "forward",
    "loss",
    "backward",
    "pre-hook",
    "hook",
    "backward hook",
    "tensor hook",
    "optimizer",
)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("nth", [1, 3])
@pytest.mark.parametrize("place", PLACES)
def test_an_error_leaves_everything_as_before(
    place: str, nth: int, error: type[BaseException]
) -> None:
    (x, y), model = batch(), sick()
    arguments = broken(place, Fault(nth, error), model)
    with unchanged(with_gradients(model), x, y), pytest.raises((ProbeError, error)):
        probe(model, x, y, **arguments)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_function_whose_backward_raises(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Breaks, "error", error)
    x, y = batch()
    model = with_gradients(nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1d(8), nn.Linear(8, 5)))
    with unchanged(model, x, y), pytest.raises(ProbeError if error is ValueError else error):
        probe(model, x, y, loss=lambda o, t: cross_entropy(Breaks.apply(o), t))


def with_momentum(model: nn.Module) -> torch.optim.Optimizer:
    """An optimizer that has made a step already."""
    x, y = batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    torch.autograd.backward(cross_entropy(model(x), y))
    optimizer.step()
    return optimizer


def test_an_optimizer_instance_is_never_stepped() -> None:
    (x, y), model = batch(), sick()
    optimizer = with_momentum(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    steps = Notes[object]()
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    groups = copy.deepcopy(optimizer.state_dict()["param_groups"])
    with unchanged(model, dict(optimizer.state), x, y):
        assert len(probe(model, x, y, loss=cross_entropy, optimizer=optimizer).profiles) == 2
    assert not steps
    assert optimizer.state_dict()["param_groups"] == groups
    assert scheduler.last_epoch == 0


@pytest.mark.parametrize("body", [mlp, sick])
def test_a_factory_of_optimizers_leaves_the_callers_parameters_alone(
    body: Callable[[], nn.Module],
) -> None:
    """It may step in the backward, draw random numbers, warn or change what it is given."""

    def factory(parameters: Any) -> torch.optim.Optimizer:
        warnings.warn("from the factory", UserWarning, stacklevel=1)
        torch.rand(1), random.random(), np.random.rand()
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(nothing)
            parameter.register_hook(nothing)
            parameter.grad = None
        return torch.optim.SGD(parameters, lr=0.1)

    (x, y), model = batch(), with_gradients(body())
    with unchanged(model, x, y):
        probe(model, x, y, loss=cross_entropy, optimizer=factory)


def test_a_factory_that_holds_the_callers_parameters_does_not_touch_them() -> None:
    (x, y), model = batch(), sick()
    optimizer = with_momentum(model)
    with unchanged(model, dict(optimizer.state), x, y), pytest.raises(ProbeError):
        probe(model, x, y, loss=cross_entropy, optimizer=lambda _: optimizer)


def test_an_optimizer_in_the_backward_does_not_step() -> None:
    (x, y), model = batch(), sick()
    fired = Notes[Tensor]()
    parameters: Any = model.parameters()
    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(fired.append)
    with unchanged(model):
        probe(model, x, y, loss=cross_entropy)
    assert not fired
    torch.autograd.backward(cross_entropy(model(x), y))
    assert len(fired) == len(list(model.parameters()))


@pytest.mark.parametrize("confirmed", [False, True])
def test_a_loss_that_reads_the_callers_own_tensors_gives_them_no_gradient(confirmed: bool) -> None:
    (x, y), model = batch(), (sick() if confirmed else mlp())
    weight: Any = model[0].weight
    scale = torch.ones((), requires_grad=True)
    fired = Notes[Tensor]()
    weight.register_post_accumulate_grad_hook(fired.append)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        penalty = torch.stack([p.square().sum() for p in model.parameters()]).sum()
        return cross_entropy(outputs, targets) + scale * 1e-9 * penalty

    with unchanged(model, scale):
        diagnosis = probe(model, x, y, loss=loss)
    assert len(diagnosis.profiles) == 1 + confirmed
    assert not fired


@pytest.mark.parametrize("bound", [True, False], ids=["method", "lambda"])
@pytest.mark.parametrize("body", [mlp, sick])
def test_a_loss_that_is_a_method_of_the_model_leaves_the_model_alone(
    body: Callable[[], nn.Module], bound: bool
) -> None:
    selves = Notes[int]()

    class Own(nn.Module):
        calls: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.body = body()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.body(x)
            return out

        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            self.calls += 1
            selves.append(id(self))
            return cross_entropy(outputs, targets)

    (x, y), model = batch(), Own()
    with unchanged(model):
        loss = model.loss if bound else lambda o, t: model.loss(o, t)
        diagnosis = probe(model, x, y, loss=loss)
    assert len(set(selves)) == len(diagnosis.profiles)


def test_a_graph_built_before_can_be_back_propagated_after() -> None:
    x, y = batch()
    layers = [nn.Linear(20, 20), nn.BatchNorm1d(20), nn.ReLU(inplace=True), *sick()]
    model: Any = nn.Sequential(*layers)
    loss = cross_entropy(model(x), y)
    (wanted,) = torch.autograd.grad(loss, model[0].weight, retain_graph=True)
    assert len(probe(model, x, y, loss=cross_entropy).profiles) == 2
    torch.autograd.backward(loss)
    assert torch.equal(model[0].weight.grad, wanted)


def test_hooks_can_still_be_removed_and_still_fire() -> None:
    model: Any = mlp()
    x = batch()[0].requires_grad_()
    calls: list[str] = []
    handles = [
        model.register_forward_pre_hook(lambda *_: calls.append("pre")),
        model[0].register_forward_hook(lambda *_: calls.append("forward")),
        model[0].register_full_backward_hook(lambda *_: calls.append("backward")),
        model[0].weight.register_hook(lambda _: calls.append("tensor")),
    ]
    with unchanged(model):
        probe(model, x)
    calls.clear()
    torch.autograd.backward(model(x).sum())
    assert calls == ["pre", "forward", "tensor", "backward"]
    for handle in handles:
        handle.remove()
    torch.autograd.backward(model(x).sum())
    assert len(calls) == 4


def test_a_probe_measures_the_same_again() -> None:
    (x, y), model = batch(), busy()
    first, second = (probe(model, x, y, loss=cross_entropy) for _ in range(2))
    assert first.profiles == second.profiles


def test_a_model_trains_the_same_whether_probed_or_not() -> None:
    x, y = batch()
    plain = nn.Sequential(nn.Linear(20, 32), nn.BatchNorm1d(32), nn.Dropout(), nn.Linear(32, 5))
    probed, weights = copy.deepcopy(plain), []
    for model, looks in ((plain, False), (probed, True)):
        torch.manual_seed(1)
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            torch.autograd.backward(cross_entropy(model(x), y))
            if looks:
                probe(model, x, y, loss=cross_entropy, optimizer=optimizer)
            optimizer.step()
        weights.append([bits(t) for t in model.state_dict().values()])
    assert weights[0] == weights[1]


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(6, 6),
    "frozen": lambda: nn.Linear(6, 6).requires_grad_(False),
    "norm": lambda: nn.BatchNorm1d(6),
    "dropout": nn.Dropout,
    "relu": lambda: nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True)),
    "gelu": nn.GELU,
    "counter": lambda: Doing(count, body=nn.Linear(6, 6)),
}
TREES = st.recursive(
    st.sampled_from(sorted(LAYERS)), lambda inner: st.lists(inner, max_size=5), max_leaves=10
)


def build(tree: Any, training: Iterator[bool]) -> nn.Module:
    layer: Any = LAYERS[tree]() if isinstance(tree, str) else nn.Sequential()
    for branch in () if isinstance(tree, str) else tree:
        layer.append(build(branch, training))
    layer.training = next(training)
    built: nn.Module = layer
    return built


@settings(max_examples=80, deadline=None)
@given(tree=TREES, place=st.sampled_from((*PLACES, "nowhere")), data=st.data())
def test_any_model_with_any_fault_is_as_before(tree: Any, place: str, data: st.DataObject) -> None:
    draw = data.draw(st.randoms(use_true_random=False))
    body = build(tree, iter(lambda: draw.random() < 0.7, None))
    model = nn.Sequential(nn.Linear(6, 6), body, nn.Linear(6, 3))
    if data.draw(st.booleans(), label="tied"):
        body.tied = model[0]
    if data.draw(st.booleans(), label="gradients"):
        with_gradients(model)
    error = data.draw(st.sampled_from([ValueError, KeyboardInterrupt]), label="error")
    fault = Fault(data.draw(st.integers(1, 4), label="nth"), error)
    limit = data.draw(st.sampled_from([None, 1e6]), label="min_ratio")
    x, y = torch.randn(4, 6), torch.tensor([0, 1, 2, 0])
    arguments = broken(place, fault, model)
    allowed = () if place == "nowhere" else (ProbeError, error)
    with unchanged(model, x, y), suppress(*allowed):
        probe(model, x, y, **arguments, min_ratio=limit, confirm_steps=2)

"""What holds on to a model holds on to its copy once that is made, in whatever way it does."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pytest_gradhealth import ProbeError, probe
from pytest_gradhealth.subject.step import Step
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.training.copies import copied
from tests.helpers.nets import batch, mlp
from tests.helpers.state import unchanged

CPU = torch.device("cpu")


class Clustered(nn.Module):
    """Keeps a running mean of its outputs, which something that is hung on it brings up to date."""

    mean: Tensor

    def __init__(self, hang: Callable[[Any], object], body: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body or nn.Linear(20, 5)
        self.register_buffer("mean", torch.zeros(5))
        self.new: Tensor | None = None
        self.done: Any = None
        hang(self)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        self.new = out.detach().mean(0)
        return out

    def update(self, *_: object) -> None:
        if self.new is None:
            raise LookupError("nothing to update with")
        self.mean.mul_(0.9).add_(0.1 * self.new)
        self.new = None


def hooked(model: Clustered, hook: Any) -> None:
    model.body.register_full_backward_hook(hook)


def on_attribute(model: Clustered, done: Any, call: Callable[[Any], object]) -> None:
    """Something that is kept, and called by a hook that gets at it through the module alone."""
    model.done = done
    model.register_full_backward_hook(lambda module, *_: call(module.done))


WAYS: dict[str, Callable[[Clustered], object]] = {}


def way(hang: Callable[[Clustered], object]) -> Callable[[Clustered], object]:
    WAYS[hang.__name__.replace("_", " ")] = hang
    return hang


@way
def closure(m: Clustered) -> None:
    hooked(m, lambda *_: m.update())


@way
def method(m: Clustered) -> None:
    hooked(m, m.update)


@way
def method_in_a_closure(m: Clustered) -> None:
    update = m.update
    hooked(m, lambda *_: update())


@way
def partial(m: Clustered) -> None:
    hooked(m, functools.partial(Clustered.update, m))


@way
def partial_of_a_closure(m: Clustered) -> None:
    hooked(m, functools.partial(lambda name, *_: getattr(m, name)(), "update"))


@way
def default(m: Clustered) -> None:
    hooked(m, lambda _a, _b, _c, m=m: m.update())


@way
def keyword(m: Clustered) -> None:
    hooked(m, lambda *_, m=m: m.update())


@way
def closure_in_a_closure(m: Clustered) -> None:
    def update() -> None:
        m.update()

    hooked(m, lambda *_: update())


@way
def decorated(m: Clustered) -> None:
    @torch.no_grad()
    def update(*_: object) -> None:
        m.update()

    hooked(m, update)


@way
def reference_in_a_closure(m: Clustered) -> None:
    own: Any = weakref.ref(m)
    hooked(m, lambda *_: own().update())


@way
def list_in_a_closure(m: Clustered) -> None:
    listeners = [m]
    hooked(m, lambda *_: listeners[0].update())


@way
def mapping_in_a_closure(m: Clustered) -> None:
    listeners = {"mean": [m.update]}
    hooked(m, lambda *_: listeners["mean"][0]())


@way
def buffer_in_a_closure(m: Clustered) -> None:
    mean = m.mean
    m.register_forward_hook(lambda _, __, out: run(mean, out))


def run(mean: Tensor, out: Tensor) -> None:
    mean.mul_(0.9).add_(0.1 * out.detach().mean(0))


@way
def hook_on_a_gradient(m: Clustered) -> None:
    weight: Any = next(m.body.parameters())
    weight.register_hook(lambda _: m.update())


@way
def attribute(m: Clustered) -> None:
    on_attribute(m, lambda: m.update(), lambda done: done())


@way
def list_in_an_attribute(m: Clustered) -> None:
    on_attribute(m, [lambda: m.update()], lambda done: done[0]())


@way
def tuple_in_an_attribute(m: Clustered) -> None:
    on_attribute(m, (1, lambda: m.update()), lambda done: done[1]())


@way
def object_in_an_attribute(m: Clustered) -> None:
    on_attribute(m, SimpleNamespace(call=lambda: m.update()), lambda done: done.call())


@way
def reference_in_an_attribute(m: Clustered) -> None:
    on_attribute(m, weakref.ref(m), lambda done: done().update())


@way
def forward_of_its_own(m: Clustered) -> None:
    def forward(x: Tensor) -> Tensor:
        out = Clustered.forward(m, x)
        m.update()
        return out

    m.forward = forward  # type: ignore[method-assign]


@pytest.mark.parametrize("hang", WAYS.values(), ids=WAYS.keys())
def test_the_copy_has_what_belongs_to_the_copy(hang: Callable[[Clustered], object]) -> None:
    model, x = Clustered(hang), batch()[0].requires_grad_()
    twin: Any = copied(Subject(model, x, None, None, CPU), None, CPU)[0].model
    twin(x).sum().backward()
    assert not model.mean.any()
    found = twin.mean.clone()
    model(x).sum().backward()
    assert torch.equal(found, model.mean)
    assert torch.equal(found, twin.mean)
    assert found.any()


@pytest.mark.parametrize("hang", [closure, hook_on_a_gradient, object_in_an_attribute])
def test_such_a_model_gets_its_second_look(hang: Callable[[Clustered], object]) -> None:
    x, y = batch()
    model = Clustered(hang, mlp(nn.Sigmoid, hidden=10))
    with unchanged(model, x):
        diagnosis = probe(model, x, y, loss=cross_entropy, clip=1.0)
    assert [finding.code for finding in diagnosis.findings] == ["GH101"]
    assert [look.steps for look in diagnosis.profiles] == [0, 5]


def test_a_function_that_calls_itself_does_so_on_the_copy() -> None:
    def hang(m: Clustered) -> None:
        left = 3

        def count(*_: object) -> None:
            nonlocal left
            left -= 1
            if left:
                count()
            else:
                m.update()

        hooked(m, count)

    model, x = Clustered(hang), batch()[0].requires_grad_()
    twin: Any = copied(Subject(model, x, None, None, CPU), None, CPU)[0].model
    twin(x).sum().backward()
    assert twin.mean.any()
    assert not model.mean.any()


def test_a_function_in_two_places_stays_one() -> None:
    def hang(m: Clustered) -> None:
        m.done = lambda *_: m.update()
        hooked(m, m.done)

    model = Clustered(hang)
    twin: Any = copied(Subject(model, batch()[0], None, None, CPU), None, CPU)[0].model
    (hook,) = twin.body._backward_hooks.values()
    assert twin.done is hook is not model.done


def test_what_leads_to_nothing_of_the_model_is_shared() -> None:
    seen: list[object] = []
    model, x = nn.Linear(20, 5), batch()[0]
    hooks = [lambda *_: seen.append(1), seen.append, functools.partial(list.append, seen)]
    handles = [model.register_forward_hook(lambda *_, hook=hook: hook(1)) for hook in hooks]
    twin = copied(Subject(model, x, None, None, CPU), None, CPU)[0].model
    assert [*twin._forward_hooks.values()] == [*model._forward_hooks.values()]
    assert len(handles) == 3


def test_a_loss_and_a_clipping_that_hold_the_model_are_those_of_the_copy() -> None:
    model, x = nn.Linear(20, 5), batch()[0]

    def loss(outputs: Tensor) -> Tensor:
        return outputs.sum() + model.weight.square().sum()

    subject = Subject(model, x, None, loss, CPU, Step(lambda _: model.zero_grad()))
    twin: Any = copied(subject, None, CPU)[0]
    twin.loss(twin.model(x)).backward()
    (expected,) = torch.autograd.grad(loss(model(x)), model.weight)
    assert model.weight.grad is None
    assert torch.equal(twin.model.weight.grad, expected)
    twin.step.clip([])
    assert twin.model.weight.grad is None


class Box:
    """An object of anyone's, which is not copied for what it holds."""

    def __init__(self, held: Any) -> None:
        self.held = held


BOXED: list[Any] = []


def by_a_global(m: Clustered) -> None:
    BOXED[:] = [m]
    hooked(m, lambda *_: BOXED[0].update())


def by_an_object(m: Clustered) -> None:
    box = Box(m)
    hooked(m, lambda *_: box.held.update())


@pytest.mark.parametrize("options", [{}, {"clip": 1.0}], ids=["second look", "steps"])
@pytest.mark.parametrize("hang", [by_a_global, by_an_object])
def test_what_still_leads_to_the_original_is_named(hang: Any, options: dict[str, Any]) -> None:
    x, y = batch()
    model = Clustered(hang, mlp(nn.Sigmoid, hidden=10))
    with pytest.raises(ProbeError) as caught, unchanged(model, x):
        probe(model, x, y, loss=cross_entropy, **options)
    held = f"{hang.__name__}.<locals>.<lambda> ({__file__}:{hang.__code__.co_firstlineno + 2})"
    assert str(caught.value) == (
        "the backward pass raised LookupError: nothing to update with\n  that was a copy of"
        f" Clustered, which is trained to confirm a verdict: it holds {held}, which leads to the"
        " original; have that use what it is called with, or pass confirm_steps=0 to judge the"
        " first look alone"
    )
    assert type(caught.value.__cause__) is LookupError
    BOXED.clear()

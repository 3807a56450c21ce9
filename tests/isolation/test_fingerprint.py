"""What a forward could read is compared: whatever changes in it, or behind it, is seen."""

from __future__ import annotations

import collections
import functools
import random
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pytest_gradhealth.isolation.fingerprint import fingerprint

FLAG = False
TABLE = {"slope": 1.0}


class Slotted:
    __slots__ = ("__dict__", "slope")

    def __init__(self) -> None:
        self.slope = 1.0
        self.beside = [1]


class Meter:
    seen = 0

    def __init__(self) -> None:
        self.values = collections.deque([1.0])
        self.inner = Slotted()


class Net(nn.Module):
    gain = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.act: Callable[[Tensor], Tensor] = torch.relu
        self.order = [0, 1]
        self.names = {"a", "b"}
        self.options: dict[str, Any] = {"deep": {"flag": False}}
        self.meter = Meter()
        self.weights = np.ones(4)
        self.generator = torch.Generator()
        self.random = random.Random(0)
        self.config = types.SimpleNamespace(flag=False)
        self.scaled = functools.partial(torch.mul, other=2.0)
        self.drop = nn.Dropout(0.5)
        self.closure = closing(1.0)
        self.own_type = torch.float32
        self.nan = float("nan")
        self.flag = False

    def forward(self, inputs: Tensor) -> Tensor:
        for place in self.order:
            inputs = self.act(self.layers[place](inputs)) * self.gain * helper(inputs)
        return inputs

    @property
    def slope(self) -> float:
        return 0.5


def closing(slope: float) -> Callable[[Tensor], Tensor]:
    def act(inputs: Tensor) -> Tensor:
        return inputs * slope

    def set_slope(value: float) -> None:
        nonlocal slope
        slope = value

    act.set_slope = set_slope  # type: ignore[attr-defined]
    return act


def helper(inputs: Tensor, power: float = 1.0) -> Tensor:
    return functional.relu(inputs) ** power if FLAG else inputs * TABLE["slope"]


def loss(outputs: Tensor) -> Tensor:
    return outputs.sum()


def setting(name: str, value: Any) -> Callable[[Net, pytest.MonkeyPatch], object]:
    return lambda net, patch: patch.setattr(net, name, value)


CHANGES: dict[str, Callable[[Any, pytest.MonkeyPatch], object]] = {
    "a function": setting("act", torch.sigmoid),
    "another function of the same code": setting("act", lambda x: x),
    "a flag": setting("flag", True),
    "a mode": lambda net, _: net.drop.eval(),
    "a rate": lambda net, patch: patch.setattr(net.drop, "p", 0.6),
    "the order of a list": lambda net, _: net.order.reverse(),
    "an element of a set": lambda net, _: net.names.add("c"),
    "a nested dict": lambda net, _: net.options["deep"].update(flag=True),
    "the order of a dict": lambda net, _: net.options.update(deep=net.options.pop("deep"), a=1),
    "an object's deque": lambda net, _: net.meter.values.append(2.0),
    "a slot": lambda net, _: setattr(net.meter.inner, "slope", 2.0),
    "an attribute beside slots": lambda net, _: net.meter.inner.beside.append(2),
    "an array in place": lambda net, _: net.weights.__setitem__(1, 2.0),
    "a generator": lambda net, _: torch.rand(3, generator=net.generator),
    "a Random": lambda net, _: net.random.random(),
    "a namespace": lambda net, _: setattr(net.config, "flag", True),
    "a partial": setting("scaled", functools.partial(torch.mul, other=3.0)),
    "what a function closes over": lambda net, _: net.closure.set_slope(2.0),
    "a dtype": setting("own_type", torch.float64),
    "a number": setting("nan", 1.0),
    "a class attribute": lambda net, patch: patch.setattr(type(net), "gain", 2.0),
    "a class attribute of an object": lambda _net, patch: patch.setattr(Meter, "seen", 1),
    "a method of the class": lambda net, patch: patch.setattr(
        type(net), "forward", lambda _self, x: x
    ),
    "a method of the object": lambda net, patch: patch.setattr(
        net, "forward", types.MethodType(lambda _self, x: x, net)
    ),
    "a property": lambda net, patch: patch.setattr(type(net), "slope", property(lambda _: 0.6)),
    "a global flag": lambda _net, patch: patch.setitem(globals(), "FLAG", True),
    "a global table": lambda _net, patch: patch.setitem(TABLE, "slope", 2.0),
    "a default": lambda _net, patch: patch.setattr(helper, "__defaults__", (2.0,)),
    "a function of torch": lambda _net, patch: patch.setattr(functional, "relu", torch.tanh),
    "a hook": lambda net, _: net.layers[0].register_forward_hook(lambda *args: args[2] * 2),
    "a hook on a tensor": lambda net, _: net.layers[0].weight.register_hook(lambda g: g * 2),
    "a weight": lambda net, _: net.layers[0].weight.data.mul_(2),
    "a tensor in a list": lambda net, _: net.order.append(torch.ones(1)),
    "a layer": lambda net, _: net.layers.append(nn.Linear(4, 4)),
    "the default dtype": lambda _net, _: torch.set_default_dtype(torch.float64),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_is_seen(
    change: Callable[[Any, pytest.MonkeyPatch], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Net()
    before = fingerprint([net, loss])
    assert before.reading.complete
    assert before == fingerprint([net, loss])
    with monkeypatch.context() as patch:
        try:
            change(net, patch)
            assert before != fingerprint([net, loss])
        finally:
            torch.set_default_dtype(torch.float32)


def test_the_state_of_a_loss_is_seen() -> None:
    class Running:
        def __init__(self) -> None:
            self.mean = 0.0

        def __call__(self, outputs: Tensor) -> Tensor:
            return outputs.sum() - self.mean

    running = Running()
    for loss in (running, running.__call__, lambda outputs: running(outputs)):
        before = fingerprint([loss])
        assert before == fingerprint([loss])
        running.mean += 1.0
        assert before != fingerprint([loss])


def test_what_may_change_without_a_sign_is_equal_to_nothing() -> None:
    net = nn.Linear(4, 4)
    with Path(__file__).open() as file:
        for odd in (iter([1]), (n for n in [1]), file):
            net.odd = odd  # type: ignore[assignment]
            assert fingerprint([net]) != fingerprint([net])


def test_no_code_of_theirs_runs() -> None:
    class Shy(nn.Module):
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

        def __getattribute__(self, name: str) -> Any:
            if name in ("__dict__", "children"):
                raise RuntimeError(name)
            return super().__getattribute__(name)

        def __len__(self) -> int:
            raise RuntimeError

        def __eq__(self, other: object) -> bool:
            raise RuntimeError

        __hash__ = nn.Module.__hash__

    shy = Shy()
    assert fingerprint([shy]) == fingerprint([shy])


def test_batches_of_the_same_tensors_in_other_containers_are_the_same() -> None:
    x, y = torch.ones(3), torch.zeros(3)
    assert fingerprint([{"x": x, "y": [y]}]) == fingerprint([{"x": x, "y": [y]}])
    assert fingerprint([{"x": x, "y": [y]}]) != fingerprint([{"x": y, "y": [x]}])
    assert fingerprint([[x, x]]) != fingerprint([[x, x.clone()]])


def test_what_goes_round_in_circles_comes_to_an_end() -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    net = nn.Linear(2, 2)
    net.ring, net.me = ring, {"net": net}  # type: ignore[assignment]
    assert fingerprint([net]) == fingerprint([net])

"""What a forward could read is compared: whatever changes in it, or behind it, is seen."""

from __future__ import annotations

import collections
import contextlib
import functools
import importlib
import random
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pytest_gradhealth.isolation import reachable
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


# What is read by ways of its own.


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> Any:
    """A package with a flag, where it is being written or installed."""
    folder = tmp_path / request.param
    (folder / "ways").mkdir(parents=True)
    (folder / "ways" / "__init__.py").write_text("")
    (folder / "ways" / "config.py").write_text("FLAG = 1.0\nTABLE = {'flag': 1.0}\n")
    (folder / "ways" / "net.py").write_text(
        "from ways import config\n"
        "import ways.config as other\n"
        "def direct(): return config.FLAG\n"
        "def table(): return config.TABLE['flag']\n"
        "def inside():\n    from ways.config import FLAG\n    return FLAG\n"
        "def inside_whole():\n    import ways.config\n    return ways.config.FLAG\n"
        "def by_text():\n    import sys\n    return sys.modules['ways.config'].FLAG\n"
        "def by_name(): return getattr(config, 'FLAG')\n"
        "def closing():\n    here = other\n    return lambda: here.FLAG\n"
        "closed = closing()\n"
        "def behind(): return direct()\n"
    )
    monkeypatch.syspath_prepend(folder)
    yield importlib.import_module("ways.net")
    for name in [name for name in sys.modules if name.partition(".")[0] == "ways"]:
        del sys.modules[name]


@pytest.mark.parametrize("package", ["src", "lib/site-packages"], indirect=True)
@pytest.mark.parametrize(
    "name",
    ["direct", "table", "inside", "inside_whole", "by_text", "by_name", "closed", "behind"],
)
def test_what_a_function_reads_through_modules_is_seen(package: Any, name: str) -> None:
    function = getattr(package, name)
    before = fingerprint([function])
    assert before == fingerprint([function])
    package.config.FLAG = 2.0
    package.config.TABLE["flag"] = 2.0
    assert function() == 2.0
    assert before != fingerprint([function])


def unlike(net: nn.Module, change: Callable[[], object]) -> bool:
    """Whether a net that can be compared is another after a change."""
    before = fingerprint([net])
    assert before == fingerprint([net])
    change()
    return before != fingerprint([net])


def test_integers_are_compared_whole() -> None:
    net = nn.Linear(4, 4)
    net.register_buffer("mask", torch.zeros(1000, dtype=torch.bool))
    mask: Any = net.mask
    assert unlike(net, lambda: mask.numpy().__setitem__(5, True))


def test_what_hangs_on_a_tensor_is_compared() -> None:
    net: Any = nn.Linear(4, 4)
    net.weight.flag = False
    assert unlike(net, lambda: setattr(net.weight, "flag", True))


def test_the_surroundings_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Linear(4, 4)
    assert unlike(net, lambda: monkeypatch.setenv("SOME_FLAG", "2"))
    assert unlike(net, lambda: monkeypatch.setattr(functional, "relu", torch.tanh))
    precision = torch.get_float32_matmul_precision()
    try:
        assert unlike(net, lambda: torch.set_float32_matmul_precision("medium"))
    finally:
        torch.set_float32_matmul_precision(precision)
    with torch.device("cpu"):
        inside = fingerprint([net])
    assert inside != fingerprint([net])


def test_what_reads_files_is_equal_to_nothing(tmp_path: Path) -> None:
    class Reading(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return x * float((tmp_path / "scale").read_text())

    class Opening(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            with open(tmp_path / "scale") as file:  # noqa: PTH123
                return x * float(file.read())

    for kind in (Reading, Opening):
        net = kind(4, 4)
        assert fingerprint([net]) != fingerprint([net])


class Point(NamedTuple):
    x: Tensor
    rate: float


def test_common_models_can_be_compared() -> None:
    net: Any = nn.Linear(4, 4)
    net.point, net.context = Point(torch.ones(2), 0.5), contextlib.nullcontext()
    net.counts = collections.defaultdict(int, a=1)
    assert fingerprint([net]) == fingerprint([net])
    assert unlike(net, lambda: setattr(net.counts, "default_factory", list))


def test_too_much_is_equal_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net: Any = nn.Linear(4, 4)
    net.samples = [(torch.ones(1), place) for place in range(20)]
    assert fingerprint([net]) == fingerprint([net])
    monkeypatch.setattr(reachable, "MOST_TENSORS", 20)
    assert fingerprint([net]) != fingerprint([net])

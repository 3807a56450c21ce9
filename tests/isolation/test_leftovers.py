"""Nothing is left alive after a probe: no tensor, no hook, no thread, no memory."""

from __future__ import annotations

import gc
import random
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils import checkpoint

from pytest_gradhealth import ProbeError, probe, suggest
from tests.helpers.nets import batch, mlp


def sick() -> nn.Sequential:
    return mlp(nn.Sigmoid, hidden=8)


def tensors_alive() -> int:
    gc.collect()
    return sum(1 for thing in gc.get_objects() if issubclass(type(thing), Tensor))


def hooks_of(model: nn.Module) -> int:
    return sum(
        len(hooks)
        for module in model.modules()
        for name, hooks in vars(module).items()
        if name.endswith("_hooks") and isinstance(hooks, dict)
    )


class Broken(nn.Module):
    """Raises on its way: in the forward, or in the backward."""

    def __init__(self, error: type[BaseException], *, backward: bool) -> None:
        super().__init__()
        self.body, self.error, self.backward = mlp(), error, backward

    def forward(self, x: Tensor) -> Tensor:
        if not self.backward:
            raise self.error
        out: Tensor = self.body(x)
        out.register_hook(self._raise)  # type: ignore[no-untyped-call]
        return out

    def _raise(self, gradient: Tensor) -> Tensor:
        raise self.error


def healthy_probe() -> None:
    x, y = batch()
    probe(mlp(), x, y, loss=cross_entropy, clip=1.0, precision="float16")


def failing_probe() -> None:
    x, y = batch()
    assert probe(sick(), x, y, loss=cross_entropy).confirmation is not None


def treated() -> None:
    x, y = batch()
    suggest(probe(sick(), x, y, loss=cross_entropy), budget=0.5)


def recurrent() -> None:
    model = nn.Sequential(nn.LSTM(4, 4, batch_first=True))
    probe(model, torch.randn(2, 6, 4), loss=lambda out: out[0].sum(), dependency=5)


def broken(error: type[BaseException], backward: bool) -> Callable[[], None]:
    def run() -> None:
        x, y = batch()
        try:
            probe(Broken(error, backward=backward), x, y, loss=cross_entropy)
        except (ProbeError, KeyboardInterrupt, SystemExit):
            return
        raise AssertionError("nothing was raised")

    return run


RUNS: dict[str, Callable[[], None]] = {
    "healthy": healthy_probe,
    "failing": failing_probe,
    "remedies": treated,
    "recurrent": recurrent,
    "raises in the forward": broken(ValueError, False),
    "raises in the backward": broken(ValueError, True),
    "interrupted in the forward": broken(KeyboardInterrupt, False),
    "interrupted in the backward": broken(KeyboardInterrupt, True),
    "exits in the forward": broken(SystemExit, False),
}


@pytest.mark.parametrize("name", RUNS)
def test_no_tensor_and_no_thread_stays_alive(name: str) -> None:
    RUNS[name]()  # what is imported or cached once does not count
    tensors, threads = tensors_alive(), threading.active_count()
    for _ in range(3):
        RUNS[name]()
    assert tensors_alive() == tensors
    assert threading.active_count() == threads


def test_the_count_of_tensors_can_rise() -> None:
    before = tensors_alive()
    kept = mlp()
    assert tensors_alive() > before
    del kept


@pytest.mark.parametrize("build", [mlp, sick])
def test_model_and_batch_are_freed_once_their_owner_lets_go(build: Callable[[], nn.Module]) -> None:
    (x, y), model = batch(), build()
    diagnosis = probe(model, x, y, loss=cross_entropy)
    origin = diagnosis.origin
    assert origin is not None
    watched = [weakref.ref(thing) for thing in (model, x, *model.parameters())]
    del model, x, y, diagnosis, origin
    gc.collect()
    assert [ref() for ref in watched] == [None] * len(watched)


@pytest.mark.parametrize("backward", [False, True])
def test_an_error_keeps_no_model_alive_once_it_is_handled(backward: bool) -> None:
    x, y = batch()
    model = Broken(ValueError, backward=backward)
    watched = weakref.ref(model)
    with pytest.raises(ProbeError) as caught:
        probe(model, x, y, loss=cross_entropy)
    assert caught.value.__cause__ is not None
    del model, caught
    gc.collect()
    assert watched() is None


@pytest.mark.parametrize("name", ["healthy", "sick"])
def test_hooks_are_gone_and_those_of_the_user_are_there(name: str) -> None:
    (x, y), model = batch(), mlp() if name == "healthy" else sick()
    fired: list[str] = []
    model[0].register_forward_hook(lambda *_: fired.append("forward"))
    model[2].register_full_backward_hook(lambda *_: fired.append("backward"))
    before = hooks_of(model)
    for _ in range(20):
        probe(model, x, y, loss=cross_entropy)
    assert hooks_of(model) == before
    fired.clear()
    loss: Any = cross_entropy(model(x), y)
    loss.backward()
    assert fired == ["forward", "backward"]


def resident() -> int:
    """Bytes of memory that the process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_hundreds_of_probes_take_no_more_memory_than_a_few() -> None:
    """Each would leave 100 kB behind if it kept its model, and 25 kB if it kept activations."""
    x, y = torch.randn(64, 200), torch.randint(0, 5, (64,))

    def once() -> None:
        model = nn.Sequential(nn.Linear(200, 100), nn.ReLU(), nn.Linear(100, 5))
        probe(model, x, y, loss=cross_entropy)

    for _ in range(50):
        once()
    gc.collect()
    before, things = resident(), len(gc.get_objects())
    for _ in range(500):
        once()
    gc.collect()
    assert resident() - before < 10e6
    assert len(gc.get_objects()) - things < 500


class Meter:
    """An object of the caller's that counts and averages."""

    def __init__(self) -> None:
        self.seen, self.mean = 0, torch.zeros(2)
        self.parts = types.SimpleNamespace(history=[])


class Metered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.meter = nn.Linear(4, 2), Meter()
        self.draws = random.Random(0), numpy.random.default_rng(0), numpy.random.RandomState(0)

    def forward(self, x: Tensor) -> Tensor:
        self.meter.seen += 1
        self.meter.mean += 1.0
        self.meter.parts.history.append(float(self.meter.seen))
        noise = self.draws[0].random() + self.draws[1].normal() + self.draws[2].normal()
        out: Tensor = self.body(x) + 1e-3 * noise
        return out


def test_objects_and_random_numbers_of_the_caller_are_as_before() -> None:
    model, twin = Metered(), Metered()
    probe(model, torch.randn(8, 4))
    assert model.meter.seen == 0
    assert torch.equal(model.meter.mean, torch.zeros(2))
    assert model.meter.parts.history == []
    mine = [model.draws[0].random(), model.draws[1].normal(), model.draws[2].normal()]
    assert mine == [twin.draws[0].random(), twin.draws[1].normal(), twin.draws[2].normal()]


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("run", [healthy_probe, broken(ValueError, True)])
def test_the_garbage_collector_is_as_it_was(enabled: bool, run: Callable[[], None]) -> None:
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        run()
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()


def test_a_forward_has_the_garbage_collector() -> None:
    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.collecting = mlp(), False

        def forward(self, x: Tensor) -> Tensor:
            assert gc.isenabled()
            out: Tensor = self.body(x)
            out.register_hook(self._ask)  # type: ignore[no-untyped-call]
            return out

        def _ask(self, gradient: Tensor) -> None:
            assert gc.isenabled()

    x, y = batch()
    assert probe(Asking(), x, y, loss=cross_entropy).verdict == "healthy"


class Checkpointed(nn.Module):
    """Raises in a checkpoint that is not re-entrant."""

    def __init__(self, checkpoint: Callable[..., Any]) -> None:
        super().__init__()
        self.body, self.checkpoint = mlp(), checkpoint

    def forward(self, x: Tensor) -> Any:
        return self.checkpoint(self.fail, self.body(x), use_reentrant=False)

    def fail(self, x: Tensor) -> Tensor:
        raise ZeroDivisionError


def of_older_torch(function: Callable[..., Any], x: Tensor, *, use_reentrant: bool) -> Any:
    """As the checkpoint of torch up to 2.11: one that raises stays open while its frame lives."""

    def opened() -> Iterator[None]:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda _: pytest.fail("left")):
            yield

    context = opened()
    next(context)
    return function(x)


@pytest.mark.parametrize("older", [False, True])
def test_a_checkpoint_that_raises_keeps_nothing_of_the_next_graph(older: bool) -> None:
    names = {**globals(), "__name__": checkpoint.__name__}
    theirs = types.FunctionType(of_older_torch.__code__, names)
    theirs.__kwdefaults__ = of_older_torch.__kwdefaults__
    model = Checkpointed(theirs if older else checkpoint.checkpoint)
    with pytest.raises(ProbeError) as caught:
        probe(model, batch()[0])
    weight = torch.ones(3, requires_grad=True)
    weight.square().sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert isinstance(caught.value.__cause__, ZeroDivisionError)

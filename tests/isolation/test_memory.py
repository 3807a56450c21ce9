"""Memory that is freed or shared: nothing ends the process, and all is as it was."""

from __future__ import annotations

import queue
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pytest_gradhealth import ProbeError, probe
from pytest_gradhealth.isolation import kept_tensor
from pytest_gradhealth.isolation.arrays import KeptArray
from tests.helpers.nets import batch, mlp
from tests.helpers.state import Doing, nothing, sick, unchanged, with_gradients


def test_a_buffer_without_memory_is_left_alone() -> None:
    buffer = torch.ones(1000)
    buffer.untyped_storage().resize_(0)
    model, x = Doing(lambda *_: None, buffer), batch()[0]
    assert probe(model, x).verdict == "healthy"
    assert buffer.untyped_storage().nbytes() == 0


@pytest.mark.parametrize("body", [mlp, sick], ids=["healthy", "sick"])
@pytest.mark.parametrize("before", [True, False])
def test_a_frozen_weight_whose_memory_is_freed_ends_no_process(
    before: bool, body: Callable[[], nn.Module]
) -> None:
    def free(self: Any, _: Tensor) -> None:
        self.frozen.weight.untyped_storage().resize_(0)

    (x, y), model = batch(), Doing((lambda *_: None) if before else free, body=body())
    model.frozen = nn.Linear(30, 20).requires_grad_(False)
    if before:
        free(model, x)
    probe(model, x, y, loss=cross_entropy, confirm_steps=1)
    assert model.frozen.weight.untyped_storage().nbytes() == (0 if before else 4 * 30 * 20)


@pytest.mark.parametrize("place", [0, 1], ids=["inputs", "targets"])
def test_a_batch_whose_memory_is_freed_is_told_of(place: int) -> None:
    given = batch()
    given[place].untyped_storage().resize_(0)
    with pytest.raises(ProbeError) as caught:
        probe(mlp(), *given, loss=cross_entropy)
    given_as = ("an input of shape (16, 20)", "a target of shape (16,)")[place]
    assert str(caught.value) == f"{given_as} is freed and holds no numbers; pass a real batch"


def test_a_gradient_in_a_flat_buffer_is_as_it_was() -> None:
    """Zeroed through an alias that nothing but the buffer knows."""
    model = with_gradients(mlp())
    flat = torch.ones(sum(p.numel() for p in model.parameters()))
    start = 0
    for parameter in model.parameters():
        parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    alias = flat.numpy()
    FLAT.append(alias)

    def zero(*_: object) -> None:
        FLAT[-1][:] = 0

    wrapped, x = Doing(zero, body=model), batch()[0]
    with unchanged(model):
        probe(wrapped, x)
    assert flat.tolist() == [1.0] * flat.numel()


FLAT: list[Any] = []


def test_fake_tensors_are_told_of() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    model, x = nn.Linear(4, 4), torch.ones(2, 4)
    with FakeTensorMode(), pytest.raises(ProbeError) as caught:
        probe(model, x)
    assert str(caught.value) == (
        "a probe cannot run inside FakeTensorMode, in which tensors hold no numbers; call it"
        " outside"
    )


def test_an_object_among_the_targets_that_the_loss_changes_is_as_it_was() -> None:
    target = types.SimpleNamespace(labels=torch.arange(16) % 5, array=np.zeros(2), used=[])

    def loss(outputs: Tensor, targets: Any) -> Tensor:
        found = cross_entropy(outputs, targets.labels.clone())
        targets.labels.zero_()
        targets.array += 1
        targets.used.append(1)
        return found

    labels, x = target.labels.clone(), batch()[0]
    probe(mlp(), x, target, loss=loss)
    assert torch.equal(target.labels, labels)
    assert target.array.tolist() == [0, 0]
    assert target.used == []


def test_lists_in_modules_and_attributes_of_classes_are_the_programs_own() -> None:
    class Counted(nn.Sequential):
        calls = 0

        def forward(self, x: Tensor) -> Any:
            type(self).calls += 1
            LOG.append(1)
            return super().forward(x)  # type: ignore[no-untyped-call]

    LOG.clear()
    probe(Counted(mlp()), batch()[0])
    assert (Counted.calls, LOG) == (1, [1])


LOG: list[int] = []


# What cannot be kept, or put back as it was.


def test_more_than_can_be_compared_is_put_back() -> None:
    many = [[[place] for place in range(2000)] for _ in range(60)]
    (x, y), model = batch(), nn.Sequential(nn.BatchNorm1d(20), mlp())

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        assert many
        return cross_entropy(outputs, targets)

    with unchanged(model):
        probe(model, x, y, loss=loss)


def test_gradients_are_kept_where_something_else_cannot_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, x = with_gradients(mlp()), batch()[0]
    of = kept_tensor.KeptTensor.of
    last = list(model.parameters())[-1]

    def failing(tensor: Tensor, guard: Any, **named: Any) -> Any:
        if tensor is last:
            raise RuntimeError("no memory")
        return of(tensor, guard, **named)

    monkeypatch.setattr(kept_tensor.KeptTensor, "of", failing)
    with unchanged(model), pytest.raises(ProbeError) as caught:
        probe(model, x)
    assert str(caught.value) == (
        "what model, loss and batch hold cannot be kept (RuntimeError: no memory); probe a smaller"
        " model of the same kind, or one that holds less"
    )


def test_arrays_in_files_and_read_only_ones_are_left_alone(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "data", dtype=np.uint16, mode="w+", shape=(4,))
    fixed = np.zeros(3)
    fixed.flags.writeable = False
    assert KeptArray.of(mapped) is None
    assert KeptArray.of(fixed) is None
    model = Doing(nothing, {"mapped": mapped, "fixed": fixed})
    assert probe(model, batch()[0]).verdict == "healthy"


@pytest.mark.parametrize(
    "change",
    [
        lambda array: setattr(array, "shape", (3, 2)),
        lambda array: array.setflags(write=False),
        lambda array: array.fill(7),
        lambda array: np.ndarray.resize(array, (9,), refcheck=False),
    ],
)
def test_an_array_has_its_shape_and_numbers_again(change: Callable[[Any], object]) -> None:
    array = np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    before = array.copy()

    def act(self: Any, _: Tensor) -> None:
        self.kept[0].fill(5)
        change(self.kept[0])

    probe(Doing(act, [array]), batch()[0])
    assert array.tolist() == before.tolist()
    assert array.flags.writeable


def test_what_cannot_be_put_back_is_told_and_the_rest_is(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, Any] = {"list": [], "array": np.zeros(2)}

    def act(self: Any, _: Tensor) -> None:
        self.kept["array"] += 1
        self.kept["list"].append(1)

    def refuse(_: KeptArray) -> None:
        raise ValueError("cannot")

    monkeypatch.setattr(KeptArray, "put_back", refuse)
    with pytest.raises(ProbeError) as caught:
        probe(Doing(act, kept), batch()[0])
    assert str(caught.value) == (
        "something that the probe has changed cannot be put back (ValueError: cannot); probe copies"
        " of what model, loss and batch hold"
    )
    assert kept["list"] == []


def test_work_of_threads_and_queues_is_left_alone() -> None:
    class Worker(threading.Thread):
        result = 0

        def run(self) -> None:
            self.result = 42

    class Jobs(queue.Queue[int]):
        pass

    worker, jobs = Worker(), Jobs()

    def act(self: Any, _: Tensor) -> None:
        assert self.kept
        if not worker.ident:
            worker.start()
            worker.join()
            jobs.put(1)

    probe(Doing(act, [worker, jobs]), batch()[0])
    assert (worker.result, jobs.qsize()) == (42, 1)


def test_an_optimizer_beside_the_model_is_put_back_whole() -> None:
    critic = nn.Linear(5, 1)
    optimizer = torch.optim.Adam(critic.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        optimizer.zero_grad()
        torch.autograd.backward(critic(outputs.detach()).sum())
        optimizer.step()
        schedule.step()
        return cross_entropy(outputs, targets)

    x, y = batch()
    loss(mlp()(x), y)

    def known() -> str:
        return str((optimizer.state_dict(), schedule.state_dict(), critic.state_dict()))

    before = known()
    probe(sick(), x, y, loss=loss, confirm_steps=1)
    assert known() == before


def test_what_makes_the_optimizer_is_as_it_was() -> None:
    made = types.SimpleNamespace(count=0)

    def build(parameters: Any) -> torch.optim.Optimizer:
        made.count += 1
        return torch.optim.SGD(parameters, lr=0.1)

    x, y = batch()
    probe(sick(), x, y, loss=cross_entropy, optimizer=build, confirm_steps=1)
    assert made.count == 0


@pytest.mark.parametrize(
    "odd",
    [
        type("Nowhere", (), {"__module__": None})(),
        type("Complex", (complex,), {})(1 + 2j),
        type("Hidden", (), {"__dict__": property(lambda _: 1 / 0)})(),
    ],
)
def test_odd_classes_are_no_obstacle(odd: object) -> None:
    assert probe(Doing(nothing, [odd]), batch()[0]).verdict == "healthy"

"""Memory that is freed or shared: nothing ends the process, and all is as it was."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pytest_gradhealth import ProbeError, probe
from tests.helpers.nets import batch, mlp
from tests.helpers.state import Doing, sick, unchanged, with_gradients


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

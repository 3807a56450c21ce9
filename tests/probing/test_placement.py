"""What is probed where: another device is a wish, and the model's own what counts.

The other device is the CPU by another name here, to which everything is copied and moved.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import Diagnosis, Patient, ProbeError, Remedy, probe, suggest
from pytest_gradhealth.probing import prepare as preparing
from pytest_gradhealth.remedies import trial as treating
from tests.helpers.nets import batch, mlp
from tests.helpers.notes import Notes
from tests.helpers.state import unchanged

cross_entropy = nn.functional.cross_entropy
HERE, THERE = torch.device("cpu"), torch.device("cpu", 0)
MISMATCH = "Expected all tensors to be on the same device, but found at least two devices"


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        preparing, "choose_device", lambda wanted, *_: HERE if wanted == "cpu" else THERE
    )


class Net(nn.Sequential):
    """Knows where it is, and says where the last forward was."""

    latest: ClassVar[torch.device] = HERE
    where = HERE

    def to(self, *device: Any, **_: Any) -> Any:
        (self.where,) = device
        return super().to(*device)

    def forward(self, x: Any) -> Any:
        Net.latest = self.where
        for layer in self:
            x = layer(x)
        return x


def bound(*_: Any) -> None:
    """Raises as torch does where the last forward met tensors of the model's own device."""
    if Net.latest == THERE:
        raise RuntimeError(MISMATCH)


def healthy() -> Any:
    return Net(*mlp())


def sick() -> Any:
    return Net(*mlp(nn.Sigmoid, hidden=10))


def in_the_way(place: str, model: Any, options: dict[str, Any]) -> None:
    """Have the model, or what it is probed with, work on its own device alone."""

    class Stepper(torch.optim.Adam):
        def step(self, closure: Any = None) -> Any:
            bound()
            return super().step(closure)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        bound()
        return cross_entropy(outputs, targets)

    def penalty(penalised: nn.Module) -> Tensor:
        bound()
        return 1e-6 * sum((p.square().sum() for p in penalised.parameters()), torch.zeros(()))

    if place == "lock":
        model.lock = threading.Lock()
    elif place == "move":
        model.to = lambda *_: 1 / 0  # also of the copy
    elif place == "forward":
        model[1].register_forward_pre_hook(bound)
    elif place == "backward":
        model[2].weight.register_hook(bound)
    else:
        options[place] = {
            "loss": loss,
            "optimizer": Stepper,
            "clip": bound,
            "regularizer": penalty,
        }[place]


def without_time(diagnosis: Diagnosis) -> Diagnosis:
    return replace(diagnosis, milliseconds=0, origin=None)


def test_a_copy_is_probed_where_the_model_could_be() -> None:
    (x, y), model = batch(), healthy()
    with unchanged(model, x, y):
        assert probe(model, x, y, loss=cross_entropy).device == "cpu:0"
    assert Net.latest == THERE
    assert model.where == HERE


@pytest.mark.parametrize(
    "place", ["lock", "move", "forward", "loss", "backward", "clip", "regularizer", "optimizer"]
)
def test_what_only_runs_where_it_is_is_probed_there(place: str) -> None:
    (x, y), model = batch(), sick() if place == "optimizer" else healthy()
    options: dict[str, Any] = {"loss": cross_entropy}
    in_the_way(place, model, options)
    with unchanged(model, x, y):
        found = probe(model, x, y, **options)
        assert Net.latest == HERE
    assert found.device == "cpu"
    assert without_time(found) == without_time(probe(model, x, y, **options, device="cpu"))
    if place != "move":
        with unchanged(model, x, y), pytest.raises(ProbeError, match=r"same device|_thread\.lock"):
            probe(model, x, y, **options, device="cpu:0")


def test_a_batch_that_cannot_be_moved_is_left_where_it_is() -> None:
    class Batch:
        """Not a tensor, and at home in one place."""

        def __init__(self) -> None:
            self.x = batch()[0]

        def to(self, device: torch.device) -> Batch:
            if device == THERE:
                raise RuntimeError("stuck")
            return self

    class Reads(Net):
        def forward(self, given: Any) -> Any:
            return super().forward(given.x)

    assert probe(Reads(*mlp()), Batch()).device == "cpu"


def test_nothing_of_the_try_is_left_while_the_model_is_probed_where_it_is() -> None:
    copies, gone = Notes[Any](), Notes[bool]()
    model = healthy()

    def note(module: nn.Module, *_: Any) -> None:
        if Net.latest == THERE:
            copies.append(weakref.ref(module))
        else:
            gone.append(all(copy() is None for copy in copies))

    model[1].register_forward_pre_hook(note)
    model[2].weight.register_hook(bound)
    gc.collect()
    gc.disable()
    try:
        assert probe(model, batch()[0]).device == "cpu"
    finally:
        gc.enable()
    assert copies
    assert list(gone) == [True]


def test_an_error_is_that_of_the_models_own_device() -> None:
    (x, y), model = batch(), healthy()
    model[1].register_forward_pre_hook(bound)
    model[2].register_forward_pre_hook(lambda *_: 1 / 0)
    with unchanged(model, x, y), pytest.raises(ProbeError) as caught:
        probe(model, x, y, loss=cross_entropy)
    assert str(caught.value) == (
        "Net.forward raised ZeroDivisionError: division by zero\n"
        "  it was called with (16, 20) float32\n"
        "  raised in 2 (Linear)"
    )
    assert type(caught.value.__cause__) is ZeroDivisionError
    assert caught.value.__context__ is caught.value.__cause__


def test_an_interrupt_is_no_reason_to_go_on_elsewhere() -> None:
    (x, _), model, forwards = batch(), healthy(), Notes[torch.device]()

    def interrupt(*_: Any) -> None:
        forwards.append(Net.latest)
        raise KeyboardInterrupt

    model[1].register_forward_pre_hook(interrupt)
    with unchanged(model, x), pytest.raises(KeyboardInterrupt):
        probe(model, x)
    assert list(forwards) == [THERE]


@pytest.mark.parametrize("build", [healthy, sick])
def test_a_model_is_left_alone_by_a_loss_that_holds_on_to_it(build: Callable[[], Any]) -> None:
    """Here everything runs on the copy, but for the loss."""
    (x, y), model = batch(), build()
    model.norm = nn.BatchNorm1d(5)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        model.seen = outputs
        return cross_entropy(model.norm(outputs), targets)

    with unchanged(model, x, y):
        diagnosis = probe(model, x, y, loss=loss, confirm_steps=0)
        suggest(diagnosis, budget=0.1)
    assert diagnosis.device == "cpu:0"
    assert model.norm.num_batches_tracked == 0


@pytest.mark.parametrize("stays", [False, True])
def test_a_factory_is_called_once_for_each_seed(stays: bool) -> None:
    built = Notes[nn.Module]()

    def factory() -> Any:
        model = healthy()
        if stays:
            model[1].register_forward_pre_hook(bound)
        built.append(model)
        return model

    diagnosis = probe(factory, batch()[0], seeds=3)
    assert (len(built), diagnosis.seeds) == (3, (0, 1, 2))
    assert diagnosis.device == ("cpu" if stays else "cpu:0")


@pytest.mark.parametrize("stays", [False, True])
def test_remedies_are_tried_where_the_failure_was_seen(
    stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []

    def rectify(patient: Patient) -> None:
        net: Any = patient.model
        found.append(net.where)
        for i in range(1, 19, 2):
            net[i] = nn.ReLU()

    (x, y), model = batch(), sick()
    if stays:
        model[0].register_forward_pre_hook(bound)
    monkeypatch.setattr(treating, "built_in_remedies", tuple)
    diagnosis = probe(model, x, y, loss=cross_entropy)
    remedy = Remedy("rectify", ("GH101",), rectify)
    assert [t.outcome for t in suggest(diagnosis, remedies=[remedy])] == ["cured"]
    assert found == [HERE if stays else THERE]

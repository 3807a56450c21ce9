"""Where a probe runs. What takes an accelerator is skipped without one."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pytest_gradhealth import ProbeError, probe, suggest
from pytest_gradhealth.tensors.devices import choose_device
from tests.helpers.nets import batch, mlp
from tests.helpers.refusals import check, refusal
from tests.helpers.state import unchanged

cross_entropy = nn.functional.cross_entropy


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if torch had found two CUDA devices, the second of them current."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 1)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("wanted", "device"),
    [("auto", "cuda:1"), ("cuda", "cuda:1"), ("cuda:0", "cuda:0"), ("cpu", "cpu")],
)
def test_the_accelerator_is_taken_unless_another_device_is_asked_for(
    wanted: str, device: str
) -> None:
    assert choose_device(wanted, mlp()) == torch.device(device)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("wanted", ["cuda:2", "mps"])
def test_a_device_that_is_not_there(wanted: str) -> None:
    with pytest.raises(ProbeError) as caught:
        choose_device(wanted, mlp(), "--gradhealth-device")
    assert str(caught.value) == (
        f"device '{wanted}' (from --gradhealth-device) is not available on this machine;"
        " pass 'auto', 'cpu' or 'cuda' (2 found)"
    )


def test_without_an_accelerator_the_cpu_is_taken() -> None:
    assert choose_device("auto", mlp()) == torch.device("cpu")
    with pytest.raises(ProbeError) as caught:
        choose_device("cuda", mlp())
    assert str(caught.value) == (
        "device 'cuda' (from the call) is not available on this machine; pass 'auto' or 'cpu'"
    )


@pytest.mark.usefixtures("accelerator")
def test_a_model_on_the_cpu_is_probed_on_the_accelerator_and_not_moved() -> None:
    (x, y), model = batch(), mlp(nn.Sigmoid, hidden=10)
    before = copy.deepcopy(model.state_dict())
    there = probe(model, x, y, loss=nn.CrossEntropyLoss(weight=torch.ones(5)))
    here = probe(model, x, y, loss=cross_entropy, device="cpu")
    assert there.device != "cpu"
    assert here.device == "cpu"
    assert there.ratio == pytest.approx(here.ratio, rel=1e-3)
    assert all(p.device.type == "cpu" for p in (*model.parameters(), x, y))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_model_on_the_accelerator_stays_there_and_its_inputs_follow(
    accelerator: torch.device,
) -> None:
    (x, y), model = batch(), mlp().to(accelerator)
    optimizer = torch.optim.Adam(model.parameters())
    diagnosis = probe(model, x, y, loss=cross_entropy, optimizer=optimizer)
    assert diagnosis.device == str(next(model.parameters()).device)


def test_random_numbers_of_the_accelerator_are_as_before(accelerator: torch.device) -> None:
    x, y = batch()
    model = nn.Sequential(mlp(), nn.Dropout()).to(accelerator)
    module = torch.get_device_module(accelerator)
    before = module.get_rng_state()
    probe(model, x, y, loss=cross_entropy)
    assert torch.equal(module.get_rng_state(), before)


@pytest.mark.usefixtures("accelerator")
def test_remedies_and_training_steps_are_tried_on_the_accelerator() -> None:
    (x, y), model = batch(), mlp(nn.Sigmoid, hidden=8)
    diagnosis = probe(model, x, y, loss=cross_entropy, clip=1.0)
    assert diagnosis.device != "cpu"
    assert diagnosis.profile.updates
    found = {treatment.remedy: treatment.outcome for treatment in suggest(diagnosis, budget=60)}
    assert found["ReLU"] == "cured"
    assert "cannot" not in {found[name] for name in ("batch norm", "residual", "Kaiming init")}
    assert all(p.device.type == "cpu" for p in model.parameters())


def test_time_and_precision_are_measured_on_the_accelerator(accelerator: torch.device) -> None:
    model = nn.Sequential(nn.RNN(8, 16, batch_first=True))
    x = torch.randn(4, 10, 8)
    options: dict[str, Any] = {
        "loss": lambda out: out[0][:, -1].square().mean(),
        "dependency": 9,
        "precision": "float16",
        "confirm_steps": 0,
    }
    here = probe(model, x, device="cpu", **options).profile
    there = probe(copy.deepcopy(model).to(accelerator), x, **options).profile
    assert there.times[0].norms == pytest.approx(here.times[0].norms, rel=1e-2)
    assert [r.name for r in there.magnitudes] == [r.name for r in here.magnitudes]
    for one, other in zip(there.magnitudes, here.magnitudes, strict=True):
        assert abs(one.high - other.high) <= 1


class Last(nn.Module):
    """The last step of a recurrent layer, whose state goes unused, and perhaps a mask on it."""

    def __init__(self, layer: nn.RNNBase, mask: Tensor | None = None) -> None:
        super().__init__()
        self.layer, self.head, self.mask = layer, nn.Linear(12, 5), mask

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x.reshape(len(x), 5, 4))[0][:, -1]
        return self.head(out if self.mask is None else out * self.mask)  # type: ignore[no-any-return]


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(20, 5, dtype=torch.complex64)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x.to(torch.complex64)).abs()
        return out


def locked() -> Any:
    model: Any = mlp()
    model.lock = threading.Lock()
    return model


def hooked(change: Callable[[Tensor], Tensor]) -> nn.Module:
    model = mlp()
    for parameter in model.parameters():
        parameter.register_hook(change)  # type: ignore[no-untyped-call]
    return model


class Checkpointed(nn.Module):
    """Has a tensor of the CPU in a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mask = mlp(), torch.ones(5)

    def forward(self, x: Tensor) -> Any:
        return checkpoint(lambda x: self.body(x) * self.mask, x, use_reentrant=False)


#: Models, and whether all of it runs on another device.
KINDS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "RNN": (lambda: Last(nn.RNN(4, 12, batch_first=True)), True),
    "LSTM": (lambda: Last(nn.LSTM(4, 12, batch_first=True)), True),
    "GRU, two ways": (lambda: Last(nn.GRU(4, 6, batch_first=True, bidirectional=True)), True),
    "complex": (Complex, True),
    "hooks": (lambda: hooked(lambda gradient: 0.5 * gradient), True),
    "hooks with a mask": (lambda: hooked(partial(torch.mul, torch.ones(1))), False),
    "a mask": (lambda: Last(nn.RNN(4, 12, batch_first=True), torch.ones(12)), False),
    "a lock": (locked, False),
    "a checkpoint": (Checkpointed, False),
}


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_measured_alike_wherever_it_runs(name: str) -> None:
    build, moves = KINDS[name]
    (x, y), model = batch(), build()
    with unchanged(model, x, y):
        found = probe(model, x, y, loss=cross_entropy)
        here = probe(model, x, y, loss=cross_entropy, device="cpu")
    assert (found.device != "cpu", found.verdict) == (moves, here.verdict)
    norms = [[p.gradient for p in d.profile.parameters] for d in (found, here)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-2 if moves else 0)


def test_a_loss_that_holds_on_to_the_cpu_is_probed_there_and_leaves_its_model_alone(
    accelerator: torch.device,
) -> None:
    (x, y), model, scale = batch(), mlp(), torch.ones(5)
    model.append(nn.BatchNorm1d(5))

    def loss(out: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(out * scale, target)

    with unchanged(model, x, y):
        assert probe(model, x, y, loss=loss).device == "cpu"
    with unchanged(model, x, y), pytest.raises(ProbeError, match="same device"):
        probe(model, x, y, loss=loss, device="cuda")


def test_a_loss_that_calls_the_model_goes_where_the_model_goes(accelerator: torch.device) -> None:
    (x, y), model = batch(), mlp()
    model.append(nn.BatchNorm1d(5))
    with unchanged(model, x, y):
        diagnosis = probe(model, x, y, loss=lambda out, t: cross_entropy(model[-1](out), t))
    assert diagnosis.device == str(accelerator) + ":0"


# Devices.


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "device 'gpu' (from the call) is not a device; pass 'auto' or 'cpu'"),
        ("cuda:x", "device 'cuda:x' (from the call) is not a device; pass 'auto' or 'cpu'"),
    ],
)
def test_devices_that_do_not_exist(device: Any, message: str) -> None:
    check(refusal(mlp(), device=device), message, RuntimeError)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps", "xpu", "meta", torch.device("cuda")])
def test_devices_that_this_machine_lacks(device: Any) -> None:
    check(
        refusal(mlp(), device=device),
        f"device '{device}' (from the call) is not available on this machine; pass 'auto' or 'cpu'",
    )


def test_the_source_of_a_device_is_named() -> None:
    with pytest.raises(ProbeError) as caught:
        choose_device("cuda", mlp(), "--gradhealth-device")
    check(
        caught.value,
        "device 'cuda' (from --gradhealth-device) is not available on this machine; pass 'auto' or"
        " 'cpu'",
    )

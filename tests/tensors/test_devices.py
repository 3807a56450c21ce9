"""Where a probe runs. What takes an accelerator is skipped without one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from pytest_gradhealth import ProbeError, probe, suggest
from pytest_gradhealth.tensors.devices import choose_device, has_accelerator
from tests.helpers.nets import batch, mlp
from tests.helpers.refusals import check, refusal

cross_entropy = nn.functional.cross_entropy
with_accelerator = pytest.mark.skipif(
    not has_accelerator(), reason="torch finds no accelerator on this machine"
)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if torch had found two CUDA devices, the second of them current."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 1)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)


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


@pytest.mark.usefixtures("no_gpu")
def test_without_an_accelerator_the_cpu_is_taken() -> None:
    assert choose_device("auto", mlp()) == torch.device("cpu")
    with pytest.raises(ProbeError) as caught:
        choose_device("cuda", mlp())
    assert str(caught.value) == (
        "device 'cuda' (from the call) is not available on this machine; pass 'auto' or 'cpu'"
    )


@with_accelerator
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


@with_accelerator
def test_a_model_on_the_accelerator_stays_there_and_its_inputs_follow() -> None:
    (x, y), model = batch(), mlp()
    model.to(torch.accelerator.current_accelerator())
    optimizer = torch.optim.Adam(model.parameters())
    diagnosis = probe(model, x, y, loss=cross_entropy, optimizer=optimizer)
    assert diagnosis.device == str(next(model.parameters()).device)


@with_accelerator
def test_random_numbers_of_the_accelerator_are_as_before() -> None:
    (x, y), accelerator = batch(), torch.accelerator.current_accelerator()
    model = nn.Sequential(mlp(), nn.Dropout()).to(accelerator)
    module = torch.get_device_module(accelerator)
    before = module.get_rng_state()
    probe(model, x, y, loss=cross_entropy)
    assert torch.equal(module.get_rng_state(), before)


@with_accelerator
def test_remedies_and_training_steps_are_tried_on_the_accelerator() -> None:
    (x, y), model = batch(), mlp(nn.Sigmoid, hidden=8)
    diagnosis = probe(model, x, y, loss=cross_entropy, clip=1.0)
    assert diagnosis.device != "cpu"
    assert diagnosis.profile.updates
    found = {treatment.remedy: treatment.outcome for treatment in suggest(diagnosis, budget=60)}
    assert found["ReLU"] == "cured"
    assert "cannot" not in {found[name] for name in ("batch norm", "residual", "Kaiming init")}
    assert all(p.device.type == "cpu" for p in model.parameters())


@with_accelerator
def test_time_and_precision_are_measured_on_the_accelerator() -> None:
    accelerator = torch.accelerator.current_accelerator()
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


without_accelerator = pytest.mark.skipif(
    torch.accelerator.is_available(), reason="the message lists the accelerator of this machine"
)


# Devices.


@without_accelerator
@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "device 'gpu' (from the call) is not a device; pass 'auto' or 'cpu'"),
        (0, "device '0' (from the call) is not a device; pass 'auto' or 'cpu'"),
        ("cuda:x", "device 'cuda:x' (from the call) is not a device; pass 'auto' or 'cpu'"),
    ],
)
def test_devices_that_do_not_exist(device: Any, message: str) -> None:
    check(refusal(mlp(), device=device), message, RuntimeError)


@without_accelerator
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps", "xpu", "meta", torch.device("cuda")])
def test_devices_that_this_machine_lacks(device: Any) -> None:
    check(
        refusal(mlp(), device=device),
        f"device '{device}' (from the call) is not available on this machine; pass 'auto' or 'cpu'",
    )


@without_accelerator
def test_the_source_of_a_device_is_named() -> None:
    with pytest.raises(ProbeError) as caught:
        choose_device("cuda", mlp(), "--gradhealth-device")
    check(
        caught.value,
        "device 'cuda' (from --gradhealth-device) is not available on this machine; pass 'auto' or"
        " 'cpu'",
    )

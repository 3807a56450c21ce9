"""Run by torchrun in several processes (tests/test_distributed.py): shared models against plain."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import fsdp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from pytest_gradhealth import (
    Diagnosis,
    GradHealth,
    ProbeError,
    VanishingGradientError,
    assert_no_vanishing,
    probe,
    suggest,
)

shard: Any = getattr(fsdp, "fully_shard", None)


@pytest.fixture(scope="session", autouse=True)
def _group() -> Iterator[None]:
    dist.init_process_group("gloo")
    yield
    dist.destroy_process_group()


def net(activation: type[nn.Module] = nn.ReLU, hidden: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(16, 32), activation()]
    for _ in range(hidden):
        layers += [nn.Linear(32, 32), activation()]
    return nn.Sequential(*layers, nn.Linear(32, 5))


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 16, generator=generator)
    return x, torch.randint(0, 5, (8,), generator=generator)


def sharded(model: nn.Sequential) -> nn.Module:
    mesh = init_device_mesh("cpu", (2,))
    for layer in model:
        if isinstance(layer, nn.Linear):
            shard(layer, mesh=mesh)
    shard(model, mesh=mesh)
    return model


def points(diagnosis: Diagnosis) -> dict[str, float]:
    (path,) = diagnosis.paths
    return {p.label.removeprefix("module."): p.norm for p in path.points}


def parameters(diagnosis: Diagnosis) -> dict[str, tuple[float, float]]:
    return {
        p.name.removeprefix("module."): (p.norm, p.gradient or 0.0)
        for p in diagnosis.profile.parameters
    }


def assert_same(one: Diagnosis, other: Diagnosis) -> None:
    assert one.verdict == other.verdict
    assert points(one) == pytest.approx(points(other), rel=1e-5)
    mine, theirs = parameters(one), parameters(other)
    assert mine.keys() == theirs.keys()
    for name, numbers in mine.items():
        assert numbers == pytest.approx(theirs[name], rel=1e-5), name


def test_a_replicated_model_has_the_profile_of_the_plain_one() -> None:
    x, y = batch()
    plain = probe(net(), x, y, loss=cross_entropy)
    shared = probe(DistributedDataParallel(net()), x, y, loss=cross_entropy)
    assert plain.verdict == "healthy"
    assert_same(shared, plain)


def test_a_sick_replica_fails_and_trains_on_as_if_never_probed() -> None:
    x, y = batch()
    probed, untouched = (DistributedDataParallel(net(nn.Sigmoid, 12)) for _ in range(2))
    diagnosis = probe(probed, x, y, loss=cross_entropy)
    assert diagnosis.verdict == "failure"
    assert diagnosis.confirmation is not None
    assert suggest(diagnosis) == (), "a budget of time is not the same everywhere"
    for model in (probed, untouched):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            loss: Any = cross_entropy(model(x + dist.get_rank()), y)
            loss.backward()
            optimizer.step()
    for one, other in zip(probed.parameters(), untouched.parameters(), strict=True):
        assert torch.equal(one, other)


class Uneven(nn.Module):
    """A network that does something else in each process."""

    def __init__(self, *, broken: bool) -> None:
        super().__init__()
        self.body, self.skip = net(nn.Sigmoid, 12), nn.Linear(16, 5)
        self.broken = broken

    def forward(self, x: Tensor) -> Tensor:
        if self.broken and dist.get_rank() == 1:
            raise ValueError("a bad batch")
        out: Tensor = self.body(x) + (0.0 if dist.get_rank() else 1.0) * self.skip(x)
        return out


def test_one_process_that_fails_fails_all() -> None:
    x, y = batch()
    with pytest.raises(ProbeError) as caught:
        probe(DistributedDataParallel(Uneven(broken=True)), x, y, loss=cross_entropy)
    text = str(caught.value)
    if dist.get_rank() == 0:
        assert text.startswith("the process of rank 1 failed: ProbeError: ")
    assert "DistributedDataParallel.forward raised ValueError: a bad batch" in text


def test_a_loss_that_fails_in_one_process_fails_all() -> None:
    x, y = batch()

    def loss(out: Tensor, labels: Tensor) -> Tensor:
        if dist.get_rank() == 0:
            raise ValueError("a bad loss")
        return cross_entropy(out, labels)

    with pytest.raises(ProbeError, match="a bad loss"):
        probe(DistributedDataParallel(net()), x, y, loss=loss)


def test_a_nan_in_one_process_fails_all_and_leaves_none_waiting() -> None:
    x, y = batch()

    def loss(out: Tensor, labels: Tensor) -> Tensor:
        value = cross_entropy(out, labels)
        return value * float("nan") if dist.get_rank() == 1 else value

    diagnosis = probe(DistributedDataParallel(net()), x, y, loss=loss)
    assert diagnosis.verdict == "failure"
    assert "GH301" in {f.code for f in diagnosis.findings if f.severity == "failure"}


def test_a_graph_that_must_stay_the_same_is_refused_and_trains_on() -> None:
    x, y = batch()
    model = DistributedDataParallel(net(), static_graph=True)
    with pytest.raises(ProbeError) as caught:
        probe(model, x, y, loss=cross_entropy)
    assert str(caught.value) == (
        "DistributedDataParallel with static_graph=True counts every backward, and would not"
        " train after a probe; pass the model that it wraps: model.module"
    )
    for _ in range(2):
        loss: Any = cross_entropy(model(x), y)
        loss.backward()


def test_a_verdict_of_one_process_is_that_of_all() -> None:
    x, y = batch()
    factor = 0.0 if dist.get_rank() == 0 else 1.0

    def loss(out: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(out * factor, labels)

    diagnosis = probe(DistributedDataParallel(net()), x, y, loss=loss, select=["GH101"])
    verdicts: list[Any] = [None, None]
    dist.all_gather_object(verdicts, diagnosis.verdict)
    assert verdicts == ["failure", "failure"]
    others = [f for f in diagnosis.findings if "in the process of rank 0" in f.message]
    assert bool(others) == (dist.get_rank() == 1)


def test_a_model_of_one_process_alone_needs_no_other() -> None:
    x, y = batch()
    if dist.get_rank() == 0:
        assert probe(net(), x, y, loss=cross_entropy).verdict == "healthy"


@pytest.mark.skipif(shard is None, reason="this torch has no fully_shard")
def test_a_sharded_model_has_the_profile_of_the_plain_one() -> None:
    x, y = batch()
    plain = probe(net(), x, y, loss=cross_entropy)
    model = sharded(net())
    assert_same(probe(model, x, y, loss=cross_entropy), plain)
    untouched = net()
    for trained in (model, untouched):
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            loss: Any = cross_entropy(trained(x), y)
            loss.backward()
            optimizer.step()
    for one, other in zip(model.parameters(), untouched.parameters(), strict=True):
        assert torch.allclose(one.full_tensor(), other, atol=1e-6)  # type: ignore[attr-defined]


@pytest.mark.skipif(shard is None, reason="this torch has no fully_shard")
def test_a_sick_sharded_model_fails_at_the_first_look() -> None:
    x, y = batch()
    with pytest.raises(ProbeError) as caught:
        assert_no_vanishing(sharded(net(nn.Sigmoid, 12)), x, y, loss=cross_entropy)
    assert str(caught.value).startswith("FSDPSequential is sharded and cannot be copied (")
    assert str(caught.value).endswith(
        "pass confirm_steps=0 to judge the first look alone, or the model before it is sharded"
    )
    with pytest.raises(VanishingGradientError):
        assert_no_vanishing(sharded(net(nn.Sigmoid, 12)), x, y, loss=cross_entropy, confirm_steps=0)


def test_tensor_parallel_weights_are_measured_as_one() -> None:
    """Inside the parallel region each process sees its part of an output alone."""
    x, y = batch()
    for hidden, verdict in ((2, "healthy"), (12, "failure")):
        plain = net(nn.ReLU if hidden == 2 else nn.Sigmoid, hidden)
        model = copy.deepcopy(plain)
        plan = {
            str(2 * i): ColwiseParallel() if i % 2 == 0 else RowwiseParallel()
            for i in range(hidden + 2)
        }
        parallelize_module(model, init_device_mesh("cpu", (2,)), plan)  # type: ignore[arg-type]
        one = probe(plain, x, y, loss=cross_entropy)
        other = probe(model, x, y, loss=cross_entropy)
        assert one.verdict == other.verdict == verdict
        mine, theirs = parameters(other), parameters(one)
        for name, numbers in mine.items():
            assert numbers == pytest.approx(theirs[name], rel=1e-4), name
        last = str(2 * (hidden + 1))
        assert points(other)[last] == pytest.approx(points(one)[last], rel=1e-5)


def test_the_report_is_for_the_first_process(gradhealth: GradHealth) -> None:
    x, y = batch()
    gradhealth.assert_healthy(net(), x, y, loss=cross_entropy)

"""Copies that take memory once somebody writes: when they are made, and that no trace stays."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pytest_gradhealth import ProbeError, probe
from pytest_gradhealth.isolation.isolate import isolated
from pytest_gradhealth.isolation.lazy_copy import lazy_copy
from pytest_gradhealth.tensors.storage import address_of

CPU = torch.device("cpu")


def weight() -> nn.Parameter:
    return nn.Parameter(torch.arange(12.0).reshape(3, 4))


def is_shared(tensor: Tensor) -> bool:
    """Whether torch would make a copy of the memory before it wrote there."""
    shared: bool = torch._C._is_cow_tensor(tensor)  # type: ignore[attr-defined]
    return shared


def test_a_copy_lies_in_the_memory_of_the_tensor_until_that_is_written_to() -> None:
    own = weight()
    twin = lazy_copy(own.data)
    assert twin is not None
    assert address_of(twin) == address_of(own)
    assert own.sum().item() == 66, "reading changes nothing"
    assert address_of(twin) == address_of(own)
    with torch.no_grad():
        own.zero_()
    assert address_of(twin) != address_of(own)
    assert twin.tolist() == weight().tolist()


#: Who else may know the memory of a tensor, and write there without torch's knowing.
OTHERS: dict[str, Callable[[nn.Parameter], object]] = {
    "an array": lambda w: w.detach().numpy(),
    "a buffer of an array": lambda w: memoryview(w.detach().numpy().data),
    "a view": lambda w: w[0],
    "data": lambda w: w.data,
    "a capsule": lambda w: torch._C._to_dlpack(w.detach()),
    "a storage": lambda w: w.untyped_storage(),
    "another parameter": lambda w: nn.Parameter(w.data),
    "a state dict": lambda w: nn.ParameterList([w]).state_dict(),
    "a graph": lambda w: torch.ones(2, 4, requires_grad=True) @ w.t(),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_memory_that_others_know_is_copied_at_once(
    other: Callable[[nn.Parameter], object],
) -> None:
    own = weight()
    knows = other(own)
    assert lazy_copy(own.data) is None
    del knows
    assert lazy_copy(own.data) is not None


def mapped(folder: Path) -> Tensor:
    torch.save(torch.ones(5), folder / "ones")
    loaded: Tensor = torch.load(folder / "ones", mmap=True)
    return loaded


#: Memory that is not torch's own, or no memory of one tensor.
FOREIGN: dict[str, Callable[[Path], Tensor]] = {
    "an array's": lambda _: torch.from_numpy(np.ones(5)),
    "a buffer's": lambda _: torch.frombuffer(bytearray(16), dtype=torch.float32),
    "shared with processes": lambda _: torch.ones(5).share_memory_(),  # type: ignore[no-untyped-call]
    "a file's": mapped,
    "sparse": lambda _: torch.eye(3).to_sparse(),
    "meta": lambda _: torch.ones(3, device="meta"),
    "inference": lambda _: _inferred(),
    "a subclass": lambda _: torch.ones(3).as_subclass(Own),
}


class Own(Tensor):
    """A tensor of the caller's own kind."""


def _inferred() -> Tensor:
    with torch.inference_mode():
        return torch.ones(3) * 1


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN)
def test_memory_that_is_not_torchs_own_is_copied_at_once(
    make: Callable[[Path], Tensor], tmp_path: Path
) -> None:
    assert lazy_copy(make(tmp_path).data) is None


def test_isolation_inside_of_isolation_gives_back_what_each_has_found() -> None:
    model = nn.Linear(4, 3)
    before, address = model.weight.detach().clone(), address_of(model.weight)
    with isolated([model], CPU):
        for value in (1.0, 2.0):
            with isolated([model], CPU):
                model.weight.data.fill_(value)
            assert torch.equal(model.weight, before)
        model.weight.data.fill_(3.0)
        with isolated([model], CPU):
            model.weight.data.fill_(4.0)
        assert model.weight.eq(3).all()
    assert torch.equal(model.weight, before)
    assert address_of(model.weight) == address
    assert not is_shared(model.weight)


class Busy(nn.Module):
    """Writes to its memory in all the ways that layers of torch have, and by a kernel that asks."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 8, max_norm=0.5)
        self.norm = nn.BatchNorm1d(8)
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))
        self.loop = nn.LSTM(8, 8)  # its kernel asks for memory to write to, and only reads
        self.head = nn.Linear(8, 3)
        self.count, self.spare = nn.Buffer(torch.zeros(())), nn.Buffer(torch.ones(3))

    def forward(self, ids: Tensor) -> Tensor:
        self.count.add_(1)
        x = self.spectral(self.norm(self.table(ids)))
        out: Tensor = self.head(self.loop(x[None])[0][0])
        return out


def pickled(model: Any, _: object) -> None:
    torch.save(model.state_dict(), io.BytesIO())


#: What a forward may do besides, after which nothing may be left either.
BESIDES: dict[str, Callable[..., object]] = {
    "nothing": lambda *_: None,
    "copies": lambda model, _: copy.deepcopy(model.head),
    "pickles": pickled,
    "asks for addresses": lambda model, _: [p.data_ptr() for p in model.parameters()],
    "frees": lambda model, _: model.spare.untyped_storage().resize_(0),
    "moves": lambda model, _: setattr(model.head.bias, "data", torch.zeros(3)),
    "raises": lambda model, _: model.head.weight.data.zero_() / "no number",
}


@pytest.mark.parametrize("what", BESIDES)
@pytest.mark.parametrize("copied", [None, True, False])
def test_no_trace_stays(what: str, copied: bool | None) -> None:
    torch.manual_seed(0)
    model, ids, y = Busy(), torch.arange(6), torch.arange(6) % 3
    held = [*model.parameters(), *model.buffers()]
    before = [(address_of(t), t.clone()) for t in held]

    def hook(*given: Any) -> None:
        BESIDES[what](model, given)

    handle = model.register_forward_hook(hook)
    try:
        probe(model, ids, y, loss=cross_entropy, copy=copied, confirm_steps=0)
        assert what != "raises"
    except ProbeError:
        assert what == "raises"
    handle.remove()
    for tensor, (address, value) in zip(held, before, strict=True):
        assert not is_shared(tensor)
        assert address_of(tensor) == address or (what == "frees" and copied)
        assert torch.equal(tensor, value)


def test_an_array_sees_the_parameter_after_a_forward_that_has_written() -> None:
    """The array is made inside, when the parameter has memory of its own, and lives on."""
    model, arrays = nn.Linear(4, 3), dict[str, Any]()

    def hook(*_: object) -> None:
        arrays["inside"] = model.weight.detach().numpy()
        arrays["inside"][:] = 7

    model.register_forward_hook(hook)
    before, address = model.weight.detach().clone(), model.weight.data_ptr()
    with isolated([model], CPU):
        model(torch.ones(2, 4))
        assert model.weight.eq(7).all()
    assert torch.equal(model.weight, before)
    assert model.weight.data_ptr() == address


def test_nothing_is_copied_for_a_model_that_only_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, ...]] = []
    clone = Tensor.clone

    def counted(tensor: Tensor, *given: Any, **named: Any) -> Tensor:
        taken.append(tuple(tensor.shape))
        return clone(tensor, *given, **named)

    monkeypatch.setattr(Tensor, "clone", counted)
    model = nn.Sequential(nn.Linear(31, 37), nn.ReLU(), nn.LayerNorm(37), nn.Linear(37, 5))
    shapes = {tuple(p.shape) for p in model.parameters()}
    assert probe(model, torch.randn(4, 31), torch.arange(4), loss=cross_entropy).verdict == (
        "healthy"
    )
    assert not shapes & set(taken)

"""Copies that take memory once somebody writes: when they are made, and that no trace stays."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_gradhealth import ProbeError, probe
from pytest_gradhealth.isolation.isolate import isolated
from pytest_gradhealth.isolation.kept_tensor import KeptTensor
from pytest_gradhealth.isolation.lazy_copy import ask_to_write, lazy_copy
from pytest_gradhealth.tensors.norms import FEW
from pytest_gradhealth.tensors.storage import address_of

CPU = torch.device("cpu")


#: As many rows and columns make a weight that is worth it.
WIDE = math.isqrt(FEW) + 1


def weight() -> nn.Parameter:
    return nn.Parameter(torch.ones(WIDE, WIDE))


def lazily(parameter: Tensor) -> Tensor | None:
    return lazy_copy(parameter, parameter.data)


def is_shared(tensor: Tensor) -> bool:
    """Whether torch would make a copy of the memory before it wrote there."""
    shared: bool = torch._C._is_cow_tensor(tensor)  # type: ignore[attr-defined]
    return shared


def test_a_copy_lies_in_the_memory_of_the_tensor_until_that_is_written_to() -> None:
    own = weight()
    twin = lazily(own)
    assert twin is not None
    assert address_of(twin) == address_of(own)
    assert own.sum().item() == WIDE * WIDE, "reading changes nothing"
    assert address_of(twin) == address_of(own)
    with torch.no_grad():
        own.zero_()
    assert address_of(twin) != address_of(own)
    assert torch.equal(twin, weight())


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
    "a graph": lambda w: torch.ones(2, WIDE, requires_grad=True) @ w.t(),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_memory_that_others_know_is_copied_at_once(
    other: Callable[[nn.Parameter], object],
) -> None:
    own = weight()
    knows = other(own)
    assert lazily(own) is None
    del knows
    assert lazily(own) is not None


def mapped(folder: Path) -> Tensor:
    torch.save(torch.ones(WIDE, WIDE), folder / "ones")
    loaded: Tensor = torch.load(folder / "ones", mmap=True)
    return loaded


def inferred(_: Path) -> Tensor:
    with torch.inference_mode():
        return torch.ones(WIDE, WIDE) * 1


#: Memory that is not torch's own, that of no dense tensor, or of numbers that are read otherwise.
ODD: dict[str, Callable[[Path], Tensor]] = {
    "an array's": lambda _: torch.from_numpy(np.ones((WIDE, WIDE))),
    "a buffer's": lambda _: torch.frombuffer(bytearray(8 * FEW), dtype=torch.float32),
    "shared with processes": lambda _: torch.ones(WIDE, WIDE).share_memory_(),  # type: ignore[no-untyped-call]
    "a file's": mapped,
    "sparse": lambda _: torch.ones(WIDE, WIDE).to_sparse(),
    "meta": lambda _: torch.ones(WIDE, WIDE, device="meta"),
    "inference": inferred,
    "conjugate": lambda _: torch.ones(WIDE, WIDE, dtype=torch.cfloat).conj(),
    "negative": lambda _: torch._neg_view(torch.ones(WIDE, WIDE)),
    "small": lambda _: torch.ones(8),
}


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_odd_memory_is_copied_at_once(make: Callable[[Path], Tensor], tmp_path: Path) -> None:
    parameter = nn.Parameter(make(tmp_path), requires_grad=False)  # which alone holds the tensor
    assert lazily(parameter) is None


def test_buffers_and_recurrent_weights_are_copied_at_once() -> None:
    """Kernels of torch ask for their memory, maybe those of several threads at a time."""
    loop, buffer = nn.LSTM(WIDE, WIDE), nn.Buffer(torch.ones(WIDE, WIDE))
    assert lazily(buffer) is None
    assert ask_to_write([loop, nn.Linear(1, 1)]) == set(map(id, loop.parameters()))
    with isolated([nn.ModuleList([loop, nn.Linear(WIDE, WIDE)])], CPU):
        assert not any(map(is_shared, loop.parameters()))


def test_what_a_mode_may_hold_on_to_is_copied_at_once() -> None:
    class Keeping(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kept.append(func(*args, **(kwargs or {})))
            return kept[-1]

    kept: list[Any] = []
    model = nn.Linear(WIDE, 99)
    address = address_of(model.weight)
    with Keeping():  # type: ignore[no-untyped-call]
        probe(model, torch.ones(2, WIDE), torch.arange(2), loss=cross_entropy)
    assert address_of(model.weight) == address
    assert not is_shared(model.weight)


def test_isolation_inside_of_isolation_gives_back_what_each_has_found() -> None:
    model = nn.Linear(WIDE, 99)
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
    """Writes to its memory in all the ways that layers of torch have."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WIDE, WIDE, max_norm=0.5)
        self.norm = nn.BatchNorm1d(WIDE)
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(WIDE, WIDE))
        self.loop = nn.LSTM(WIDE, 8)
        self.head = nn.Linear(8, 3)
        self.wide = nn.Linear(3, FEW)
        self.count, self.spare = nn.Buffer(torch.zeros(())), nn.Buffer(torch.ones(3))

    def forward(self, ids: Tensor) -> Tensor:
        self.count.add_(1)
        x = self.spectral(self.norm(self.table(ids)))
        answers = self.head(self.loop(x[None])[0][0])
        out: Tensor = answers + self.wide(answers).mean(1, keepdim=True)
        return out


def pickled(model: Any, _: object) -> None:
    torch.save(model.state_dict(), io.BytesIO())


def offloaded(model: Any, _: object) -> None:
    """As what keeps parameters elsewhere between two forwards."""
    weight = model.wide.weight
    there, storage = weight.detach().clone(), weight.untyped_storage()
    storage.resize_(0)
    storage.resize_(there.nbytes)
    weight.data.copy_(there)


def refused(*_: object) -> None:
    """What torch says to an extension that asks for memory to write to in parallel."""
    if is_shared(MODEL[-1].wide.weight):
        raise RuntimeError("Materializing a storage in the loop function of at::parallel_for is")


MODEL: list[Any] = []

#: What a forward may do besides, after which nothing may be left either.
BESIDES: dict[str, Callable[..., object]] = {
    "nothing": lambda *_: None,
    "copies": lambda model, _: copy.deepcopy(model.head),
    "pickles": pickled,
    "asks for addresses": lambda model, _: [p.data_ptr() for p in model.parameters()],
    "frees": lambda model, _: model.spare.untyped_storage().resize_(0),
    "frees and fills": offloaded,
    "asks in parallel": refused,
    "moves": lambda model, _: setattr(model.wide.bias, "data", torch.zeros(FEW)),
    "raises": lambda model, _: model.wide.weight.data.zero_() / "no number",
}
#: What may leave memory elsewhere: where all is copied at once, or something holds on to it.
MOVING = ("frees", "frees and fills", "pickles", "raises")


@pytest.mark.parametrize("what", BESIDES)
@pytest.mark.parametrize("copied", [None, True, False])
def test_no_trace_stays(what: str, copied: bool | None) -> None:
    torch.manual_seed(0)
    model, ids, y = Busy(), torch.arange(6), torch.arange(6) % 3
    MODEL.append(model)
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
        assert address_of(tensor) == address or what in MOVING
        assert torch.equal(tensor, value)


@pytest.mark.parametrize("kept", [True, False])
def test_what_is_known_of_a_parameter_that_was_written_to_still_knows_it(kept: bool) -> None:
    """An array that is made inside, and that lives on, shows the parameter ever after."""
    model = nn.Linear(WIDE, 99)

    def hook(*_: object) -> None:
        found = model.weight.detach().numpy()
        found[:] = 7
        ARRAYS.update({"inside": found} if kept else {})

    model.register_forward_hook(hook)
    before, address = model.weight.detach().clone(), model.weight.data_ptr()
    with isolated([model], CPU):
        model(torch.ones(2, WIDE))
        assert model.weight.eq(7).all()
    assert torch.equal(model.weight, before)
    if kept:
        model.weight.data.fill_(3)
        assert (ARRAYS.pop("inside") == 3).all()
    else:
        assert model.weight.data_ptr() == address


#: What holds on to an array where nobody puts anything back.
ARRAYS: dict[str, Any] = {}


def test_an_error_while_something_is_kept_leaves_nothing_shared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = nn.Sequential(nn.Linear(WIDE, 99), nn.Linear(99, WIDE))
    of = KeptTensor.of
    last = list(model.parameters())[0]  # noqa: RUF015

    def failing(tensor: Tensor, guard: Any, **named: Any) -> KeptTensor:
        if tensor is last:
            raise RuntimeError("no memory")
        return of(tensor, guard, **named)

    monkeypatch.setattr(KeptTensor, "of", failing)
    with pytest.raises(ProbeError), isolated([model], CPU):
        pass
    assert not any(map(is_shared, model.parameters()))


class Gated(nn.Module):
    """A gate that begins at zero, is trained, and is held between zero and one by every forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.side = nn.Linear(4, 2 * FEW), nn.Linear(4, 2 * FEW)
        self.gate = nn.Parameter(torch.zeros(2 * FEW))
        self.last = nn.Linear(2 * FEW, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.gate.data.clamp_(0, 1)
        return self.last(self.first(x).relu() + self.gate * self.side(x))  # type: ignore[no-any-return]


def test_memory_that_moves_is_the_same_to_what_watches_a_forward() -> None:
    torch.manual_seed(0)
    batch = torch.randn(6, 4), torch.arange(6) % 3
    found = [probe(Gated(), *batch, loss=cross_entropy, copy=c).findings for c in (None, True)]
    assert [f.code for f in found[0]] == [f.code for f in found[1]] == []


def test_nothing_is_copied_for_a_model_that_only_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, ...]] = []
    clone = Tensor.clone

    def counted(tensor: Tensor, *given: Any, **named: Any) -> Tensor:
        taken.append(tuple(tensor.shape))
        return clone(tensor, *given, **named)

    monkeypatch.setattr(Tensor, "clone", counted)
    model = nn.Sequential(nn.Linear(99, WIDE), nn.ReLU(), nn.LayerNorm(WIDE), nn.Linear(WIDE, 99))
    shapes = {tuple(p.shape) for p in model.parameters() if p.numel() > FEW}
    assert len(shapes) == 2
    assert probe(model, torch.randn(4, 99), torch.arange(4), loss=cross_entropy).verdict == (
        "healthy"
    )
    assert not shapes & set(taken)

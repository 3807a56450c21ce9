"""Large parameters are copied, or else when something is about to write to them and not before."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding, embedding_bag, linear, relu
from torch.overrides import wrap_torch_function
from torch.utils.checkpoint import checkpoint

from pytest_gradhealth import ProbeError, probe
from pytest_gradhealth.isolation import write_guard
from pytest_gradhealth.isolation.isolate import isolated
from pytest_gradhealth.isolation.write_guard import LARGE, WriteGuard
from pytest_gradhealth.tensors.norms import FEW
from tests.helpers.notes import Notes

WIDTH = 256
BATCH = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(0))
TARGETS = torch.arange(4)


@pytest.fixture(params=["lazy", "guarded"])
def _lazy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which copies come in time; torch has no lazy ones on an accelerator."""
    if request.param == "guarded":
        _never_lazily(monkeypatch)


def _never_lazily(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_gradhealth.isolation.kept_tensor.lazy_copy", lambda *_: None)


def in_no_grad(weight: nn.Parameter) -> None:
    with torch.no_grad():
        weight.mul_(2)


def by_a_view(weight: nn.Parameter) -> None:
    with torch.no_grad():
        row = weight[0]
        row.zero_()


def by_a_view_and_data(weight: nn.Parameter) -> None:
    weight.view(-1).data.fill_(3)


def by_item(weight: nn.Parameter) -> None:
    with torch.no_grad():
        weight[1, 2] = 5.0


def by_operator(weight: nn.Parameter) -> None:
    with torch.no_grad():
        weight.__iadd__(1)


def by_out(weight: nn.Parameter) -> None:
    with torch.no_grad():
        torch.mul(weight, 2, out=weight)


def by_optimizer(weight: nn.Parameter) -> None:
    weight.grad = torch.ones_like(weight)
    torch.optim.AdamW([weight], lr=0.1).step()


def by_storage(weight: nn.Parameter) -> None:
    weight.untyped_storage().copy_(torch.zeros_like(weight).untyped_storage())


def in_inference(weight: nn.Parameter) -> None:
    with torch.inference_mode():
        weight.neg_()


def in_place(weight: nn.Parameter) -> None:
    with torch.no_grad():
        relu(weight.view(-1), inplace=True)


@wrap_torch_function(lambda weight: (weight,))
def doubled(weight: Tensor) -> Tensor:
    return weight.mul_(2)


def by_a_function_of_the_callers(weight: nn.Parameter) -> None:
    with torch.no_grad():
        doubled(weight)


WRITES: dict[str, Callable[[nn.Parameter], Any]] = {
    "no_grad": in_no_grad,
    "a view": by_a_view,
    "a view's data": by_a_view_and_data,
    "an item": by_item,
    "an operator": by_operator,
    "out=": by_out,
    "an optimizer": by_optimizer,
    "the storage": by_storage,
    "inference mode": in_inference,
    "data": lambda w: w.data.mul_(2),
    "other data": lambda w: setattr(w, "data", torch.zeros(2, 2)),
    "detach": lambda w: w.detach().add_(1),
    "numpy": lambda w: w.detach().numpy().fill(7),
    "foreach": lambda w: torch._foreach_mul_([w.data], 2),
    "init": nn.init.ones_,
    "an operation of aten": lambda w: torch.ops.aten.add_.Tensor(w.detach(), 1),
    "an embedding of limited norm": lambda w: embedding(TARGETS, w, max_norm=0.1),
    "a bag of limited norm": lambda w: embedding_bag(TARGETS[None], w, max_norm=0.1),
    "a function in place": in_place,
    "a function of the caller's": by_a_function_of_the_callers,
    "dlpack": lambda w: torch.utils.dlpack.from_dlpack(w.detach()).zero_(),
}


class Writer(nn.Module):
    def __init__(self, write: Callable[[nn.Parameter], Any], frozen: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.other = nn.Linear(WIDTH, WIDTH).requires_grad_(not frozen)
        self.head = nn.Linear(WIDTH, 4)
        self.write = write

    def forward(self, x: Tensor) -> Tensor:
        weight = self.other.weight
        assert isinstance(weight, nn.Parameter)
        self.write(weight)
        out: Tensor = self.head(self.first(x).relu())
        return out


@pytest.mark.usefixtures("_lazy")
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_whatever_writes_to_a_parameter_is_undone(
    write: Callable[[nn.Parameter], Any], frozen: bool
) -> None:
    torch.manual_seed(0)
    model = Writer(write, frozen)
    weight = model.other.weight
    assert weight.numel() >= LARGE
    before, memory = weight.detach().clone(), weight.data_ptr()
    with isolated([model], torch.device("cpu"), copy=False):
        model(BATCH)
        changed = weight.shape != before.shape or not torch.equal(weight, before)
    assert changed  # or the test shows nothing
    assert torch.equal(weight, before)
    assert weight.data_ptr() == memory


def test_what_is_missed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    _never_lazily(monkeypatch)
    monkeypatch.setattr("pytest_gradhealth.isolation.write_guard._WRITING", ("out",))
    model = Writer(WRITES["an embedding of limited norm"])
    before = model.other.weight.detach().clone()
    with pytest.raises(ProbeError) as caught:
        probe(model, BATCH, TARGETS, loss=cross_entropy, copy=False)
    assert str(caught.value) == (
        "other.weight of shape (256, 256) was written to during the probe in a way that cannot be"
        " seen before it happens, and stays changed; pass copy=True to have large parameters copied"
        " before, or probe a copy of the model: copy.deepcopy(model)"
    )
    assert not torch.equal(model.other.weight, before)


ALIASES: dict[int, Any] = {}


class Function(torch.autograd.Function):
    """Clamps a weight on the way back."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: nn.Parameter) -> Tensor:
        ctx.weight = weight
        return y.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.weight.data.clamp_(-1e-3, 1e-3)
        return gradient, None


def in_a_thread(weight: nn.Parameter, _: Tensor) -> None:
    thread = threading.Thread(target=lambda: weight.data.mul_(2))
    thread.start()
    thread.join()


def past_all_modes(weight: nn.Parameter, _: Tensor) -> None:
    with torch._C.DisableTorchFunction():
        weight.data.mul_(2)


def in_the_backward(weight: nn.Parameter, out: Tensor) -> None:
    def hook(_: Tensor) -> None:
        weight.data.mul_(2)

    out.register_hook(hook)  # type: ignore[no-untyped-call]


def by_an_alias(weight: nn.Parameter, _: Tensor) -> None:
    ALIASES[id(weight)] *= 2


def in_other_memory(weight: nn.Parameter, _: Tensor) -> None:
    weight.set_(torch.zeros(3).untyped_storage(), 0, (3,), (1,))


#: Ways to write that no mode sees, and how the output goes on.
UNSEEN: dict[str, Callable[[nn.Parameter, Tensor], Tensor | None]] = {
    "a thread": in_a_thread,
    "past all modes": past_all_modes,
    "an alias of NumPy's": by_an_alias,
    "a tensor hook": in_the_backward,
    "the backward of a function": lambda w, out: Function.apply(out, w),
    "other memory": in_other_memory,
}


class Sly(nn.Module):
    def __init__(self, write: Callable[[nn.Parameter, Tensor], Tensor | None]) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, 4)
        self.other = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.write = write
        ALIASES[id(self.other.weight)] = self.other.weight.numpy()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.first(x)
        weight: Any = self.other.weight
        written = self.write(weight, out)
        return out if written is None else written


@pytest.mark.usefixtures("_lazy")
@pytest.mark.parametrize("copied", [None, True, False])
@pytest.mark.parametrize("write", UNSEEN.values(), ids=UNSEEN)
def test_what_no_mode_sees_is_undone_or_said(
    write: Callable[[nn.Parameter, Tensor], Tensor | None], copied: bool | None
) -> None:
    model = Sly(write)
    weight = model.other.weight
    before, memory = weight.detach().clone(), weight.data_ptr()
    error = None
    try:
        probe(model, BATCH, TARGETS, loss=cross_entropy, copy=copied)
    except ProbeError as raised:
        error = str(raised)
    stays = weight.shape != before.shape or not torch.equal(weight, before)
    assert stays == (error is not None)
    assert error is None or error.startswith("other.weight of shape (256, 256) was written to")
    assert weight.data_ptr() == memory
    if copied is not False:
        assert error is None


def test_without_room_for_copies_parameters_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    room = 4 * WIDTH * WIDTH
    for free, watches in ((10 * room, False), (10 * room - 1, True)):
        monkeypatch.setattr(write_guard, "free_bytes", lambda _, free=free: free)
        assert WriteGuard(torch.device("cpu")).watch(nn.Parameter(torch.ones(WIDTH, WIDTH))) == (
            watches
        )


def test_the_room_for_copies_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_guard, "free_bytes", lambda _: 10 * 4 * WIDTH * WIDTH)
    guard, weights = WriteGuard(torch.device("cpu")), [nn.Linear(WIDTH, WIDTH).weight] * 2
    assert list(map(guard.watch, weights)) == [False, True]


def test_nobody_asks_for_free_memory_where_all_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_guard, "free_bytes", lambda _: pytest.fail("asked"))
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    probe(model, BATCH[:, :16], TARGETS, loss=cross_entropy)


@pytest.mark.usefixtures("_lazy")
def test_an_alias_from_before_is_no_way_around() -> None:
    model = Writer(lambda _: None)
    alias, before = model.other.weight.detach(), model.other.weight.detach().clone()
    model.write = lambda _: alias.mul_(3)
    with isolated([model], torch.device("cpu"), copy=False):
        model(BATCH)
    assert torch.equal(model.other.weight, before)


@pytest.mark.usefixtures("_lazy")
def test_a_frozen_parameter_that_is_written_to_in_a_forward_is_put_back() -> None:
    model = Writer(lambda w: w.mul_(2), frozen=True)
    before = model.other.weight.detach().clone()
    with isolated([model], torch.device("cpu"), copy=False):
        model(BATCH)
    assert torch.equal(model.other.weight, before)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The parameters that guards have copied, where torch makes no lazy copies."""
    _never_lazily(monkeypatch)
    found: list[Tensor] = []
    copy = WriteGuard._copy

    def counted(self: WriteGuard, parameter: Tensor) -> None:
        found.append(parameter)
        copy(self, parameter)

    monkeypatch.setattr(WriteGuard, "_copy", counted)
    return found


class Teacher(nn.Module):
    """A student beside a teacher without gradients, and a frozen part."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Linear(WIDTH, WIDTH)
        self.teacher = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.teacher(x)
        seen = linear(self.frozen(x), self.student.weight)
        out: Tensor = self.head((self.student(x) - wanted + seen).relu())
        return out


@pytest.mark.parametrize("confirm_steps", [0, 5])
def test_a_probe_of_a_healthy_model_copies_no_large_parameter(
    copies: list[Tensor], confirm_steps: int
) -> None:
    torch.manual_seed(0)
    diagnosis = probe(
        *(Teacher(), BATCH, TARGETS), loss=cross_entropy, confirm_steps=confirm_steps, copy=False
    )
    assert len(diagnosis.profiles) == 1
    assert not copies


#: Weights of so many rows and columns are too large to be held.
WIDE = math.isqrt(FEW) + 1


class Held(nn.Module):
    """Notes how many gradients there are at once, all the way through the backward."""

    def __init__(self, counts: Callable[[int], None]) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(WIDE, WIDE, bias=False) for _ in range(8)])
        self.note = counts

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).relu()
            x.register_hook(self.count)  # type: ignore[no-untyped-call]
        return x

    def count(self, _: Tensor) -> None:
        self.note(sum(p.grad is not None for p in self.parameters()))


def test_a_backward_holds_no_gradient_that_has_been_measured() -> None:
    counts = Notes[int]()
    model = Held(lambda count: counts.append(count))
    diagnosis = probe(model, BATCH[:, :WIDE], TARGETS, loss=cross_entropy, confirm_steps=0)
    assert len(counts) >= len(model.layers)
    assert max(counts) <= 2
    assert all(p.gradient is not None for p in diagnosis.profile.parameters)


def gradients(model: nn.Module, x: Tensor) -> dict[str, float]:
    """The norms of what a plain backward gives."""
    cross_entropy(model(x), TARGETS).backward()  # type: ignore[no-untyped-call]
    found = {n: float(p.grad.norm()) for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


class Shared(nn.Module):
    """One layer in two checkpoints and outside of them."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.shared = nn.Linear(width, width)
        self.head = nn.Linear(width, 4)
        self.head.weight.register_hook(lambda g: 2 * g)  # type: ignore[no-untyped-call]
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(2):
            x = self.again(x).tanh()
        out: Tensor = self.head(self.shared(x))
        return out

    def again(self, x: Tensor) -> Tensor:
        if self.kind == "own":
            return Again.apply(x, self.shared)  # type: ignore[no-any-return]
        if self.kind == "none":
            return self.shared(x)  # type: ignore[no-any-return]
        found: Tensor = checkpoint(self.shared, x, use_reentrant=self.kind == "reentrant")
        return found


class Again(torch.autograd.Function):
    """A checkpoint of the caller's own, which back-propagates inside of the backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Module) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x)
        out: Tensor = layer(x)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None]:
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            ctx.layer(x).backward(gradient)
        return x.grad, None


@pytest.mark.parametrize("width", [16, WIDE])
@pytest.mark.parametrize("kind", ["none", "plain", "reentrant", "own"])
def test_gradients_that_come_in_parts_are_measured_whole(kind: str, width: int) -> None:
    torch.manual_seed(0)
    model, x = Shared(kind, width), BATCH[:, :width]
    wanted = gradients(model, x)
    diagnosis = probe(model, x, TARGETS, loss=cross_entropy, confirm_steps=0)
    found = {p.name: p.gradient for p in diagnosis.profile.parameters}
    assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("width", [16, WIDE])
def test_gradients_that_the_caller_accumulates_are_neither_counted_nor_lost(width: int) -> None:
    torch.manual_seed(0)
    model, x = Shared("none", width), BATCH[:, :width]
    wanted = gradients(model, x)
    cross_entropy(model(x), TARGETS).backward()  # type: ignore[no-untyped-call]
    own = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    values = {name: gradient.clone() for name, gradient in own.items()}
    diagnosis = probe(model, x, TARGETS, loss=cross_entropy, confirm_steps=0)
    assert {p.name: p.gradient for p in diagnosis.profile.parameters} == pytest.approx(wanted)
    for name, parameter in model.named_parameters():
        assert parameter.grad is own[name]
        assert torch.equal(own[name], values[name])

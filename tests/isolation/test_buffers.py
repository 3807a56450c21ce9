"""Buffers of every kind are as before, whatever a forward does to them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pytest_gradhealth import ProbeError, probe
from pytest_gradhealth.tensors.unwrap import parts
from tests.helpers.nets import batch, mlp
from tests.helpers.state import Doing, sick, unchanged, with_gradients

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:The PyTorch API of nested")

BUFFERS: dict[str, Callable[[], Tensor]] = {
    "dense": lambda: torch.ones(4),
    "integers": lambda: torch.arange(4),
    "booleans": lambda: torch.tensor([True, False]),
    "complex": lambda: torch.tensor([1 + 2j, 3]),
    "conjugated": lambda: torch.tensor([1 + 2j, 3]).conj(),
    "negated": lambda: torch.tensor([1 + 2j, 3]).conj().imag,
    "float8": lambda: torch.ones(4).to(torch.float8_e4m3fn),
    "expanded": lambda: torch.ones(1).expand(5),
    "expanded rows": lambda: torch.arange(4.0).expand(3, 4),
    "overlapping": lambda: torch.arange(6.0).unfold(0, 3, 1),
    "a column": lambda: torch.arange(6.0).reshape(3, 2)[:, 1],
    "COO": lambda: torch.eye(3).to_sparse(),
    "CSR": lambda: torch.eye(3).to_sparse_csr(),
    "CSC": lambda: torch.eye(3).to_sparse_csc(),
    "BSR": lambda: torch.eye(4).to_sparse_bsr((2, 2)),
    "BSC": lambda: torch.eye(4).to_sparse_bsc((2, 2)),
    "jagged": lambda: torch.nested.nested_tensor(
        [torch.ones(2), torch.ones(3)], layout=torch.jagged
    ),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
}


def write(buffer: Tensor) -> None:
    """Change the memory of a tensor, and all that shares it."""
    octets = torch.empty(0, dtype=torch.uint8).set_(parts(buffer)[-1].untyped_storage())
    octets[0] ^= 1


ACTS: dict[str, Callable[[Any], object]] = {
    "in place": write,
    "conjugated": lambda b: setattr(b, "data", b.data.conj()),
    "retyped": lambda b: setattr(b, "data", b.data.to(torch.float64)),
    "seen as integers": lambda b: setattr(b, "data", b.data.view(torch.int32)),
    "resized": lambda b: b.resize_(20),
    "freed": lambda b: b.untyped_storage().resize_(0),
    "grown": lambda b: b.untyped_storage().resize_(4000),
    "other data": lambda b: setattr(b, "data", torch.zeros(3)),
    "set": lambda b: b.set_(torch.zeros(2).to(b.dtype)),
    "transposed": lambda b: b.t_(),
}


def numbers(buffer: Tensor) -> list[object]:
    inner = buffer.unbind() if buffer.is_nested else parts(buffer)
    return [str(part.tolist()) for part in inner]


def look(buffer: Tensor) -> dict[str, object]:
    """What a caller sees of a buffer."""
    dense = [part for part in parts(buffer) if not part.is_nested]
    return {
        "numbers": numbers(buffer),
        "sizes": [part.untyped_storage().nbytes() for part in parts(buffer)],
        "strides": [part.stride() for part in dense],
        "flags": (buffer.layout, buffer.dtype, buffer.is_conj(), buffer.is_neg()),
        "leaf": (buffer.requires_grad, buffer.is_leaf),
    }


def places(buffer: Tensor) -> list[int]:
    """Where the memory of a buffer lies."""
    return [part.data_ptr() for part in parts(buffer)]


#: After these there is no way back to the same place.
MOVES = ("resized", "freed", "grown")


def does(act: Callable[[Any], object], make: Callable[[], Tensor]) -> bool:
    """Whether torch can do so to a tensor of a kind, which can be read then."""
    twin = make()
    try:
        act(twin)
        return not (twin.is_nested or twin.layout != torch.strided) or bool(numbers(twin))
    except (RuntimeError, NotImplementedError):
        return False


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    CASES = [
        (kind, act)
        for kind, make in BUFFERS.items()
        for act, do in ACTS.items()
        if (kind, act) != ("jagged", "other data") and does(do, make)
    ]


def test_most_acts_are_possible() -> None:
    assert len(CASES) > 80
    assert {kind for kind, act in CASES if act == "in place"} == set(BUFFERS)


@pytest.mark.parametrize(("kind", "act"), CASES)
def test_a_buffer_is_as_it_was(kind: str, act: str) -> None:
    buffer, (x, y) = BUFFERS[kind](), batch()
    before, memory = look(buffer), places(buffer)
    model = Doing(lambda self, _: ACTS[act](self.kept), buffer)
    probe(model, x, y, loss=cross_entropy)
    assert model.kept is buffer
    assert look(buffer) == before
    assert act in MOVES or places(buffer) == memory


@pytest.mark.parametrize("kind", BUFFERS)
def test_a_buffer_of_any_kind_is_no_obstacle_to_a_second_look(kind: str) -> None:
    buffer, (x, y) = BUFFERS[kind](), batch()
    model = Doing(lambda self, _: write(self.kept), buffer, sick())
    before = look(buffer)
    assert probe(model, x, y, loss=cross_entropy, confirm_steps=1).verdict == "failure"
    assert look(buffer) == before


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

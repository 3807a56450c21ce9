"""Buffers of every kind, and what a forward may do to them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pytest_gradhealth import probe
from pytest_gradhealth.tensors.unwrap import parts
from tests.helpers.attacks import Attack
from tests.helpers.bystanders import BODIES, asserted
from tests.helpers.nets import batch
from tests.helpers.state import Doing

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
    except RuntimeError:
        return False


def acted_on(kind: str, act: str, body: Callable[[], nn.Module]) -> None:
    """Probe a model whose forward does something to a buffer; it must not show."""
    buffer, (x, y) = BUFFERS[kind](), batch()
    before, memory = look(buffer), places(buffer)
    model = Doing(lambda self, _: ACTS[act](self.kept), buffer, body())
    asserted(lambda: probe(model, x, y, loss=cross_entropy, confirm_steps=1))
    assert model.kept is buffer
    assert look(buffer) == before
    assert act in MOVES or places(buffer) == memory


def buffers() -> Iterator[Attack]:
    """All that torch can do to a tensor of a kind, in healthy and sick nets."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = [(k, a) for k, make in BUFFERS.items() for a, do in ACTS.items() if does(do, make)]
    for kind, act in cases:
        if (kind, act) != ("jagged", "other data"):  # torch makes of it what nobody can read
            for name, body in BODIES.items():
                yield Attack("buffer", f"{kind}-{act}-{name}", partial(acted_on, kind, act, body))

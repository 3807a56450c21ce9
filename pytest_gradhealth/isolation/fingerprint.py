"""Tells whether anything that a probe depends on has changed since it was last looked at."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pytest_gradhealth.isolation.arrays import digest
from pytest_gradhealth.isolation.kept_tensor import numbers_of, same_bits
from pytest_gradhealth.isolation.modes import read_switches
from pytest_gradhealth.isolation.places import CONTAINERS
from pytest_gradhealth.isolation.reachable import ATOMS, Reachable
from pytest_gradhealth.isolation.write_guard import unguarded
from pytest_gradhealth.tensors.devices import on_host
from pytest_gradhealth.tensors.storage import has_memory
from pytest_gradhealth.tensors.unwrap import own_part


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is compared: places and what was in them, and numbers of tensors, still on the device.

    Two are equal where none of it differs, bit for bit, and nothing was met that may change without
    a sign. Comparing waits for the device, taking one does not.
    """

    reading: Reachable
    states: tuple[object, ...]
    known: tuple[object, ...]
    numbers: dict[torch.device, Tensor]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Fingerprint):
            return NotImplemented
        return (
            self.reading.complete
            and other.reading.complete
            and _are_same_places(self.reading, other.reading)
            and self.states == other.states
            and self.known == other.known
            and self.numbers.keys() == other.numbers.keys()
            and all(same_bits(ours, other.numbers[d]) for d, ours in self.numbers.items())
        )

    __hash__ = None  # type: ignore[assignment]


def fingerprint(values: Iterable[Any]) -> Fingerprint:
    """Return what differs once one of the values has changed, or anything reachable from them.

    Runs no code of theirs. Version counters see every change of a tensor in place but those through
    `.data`, which norms and a sample of the elements see.
    """
    reading = Reachable([tuple(values)], written=False)
    if not reading.complete:
        return Fingerprint(reading, (), (), {})
    numbers: dict[torch.device, list[Tensor]] = {}
    with torch.no_grad(), unguarded():
        for tensor in reading.tensors:
            for part in numbers_of(tensor):
                numbers.setdefault(part.device, []).append(part)
        together = {device: torch.cat(parts) for device, parts in numbers.items()}
        known = _surroundings(), tuple(map(_tensor_state, reading.tensors))
    states = [_digest(items[0]) for _, kind, items in reading.places if kind.state]
    reading.forget_states()
    return Fingerprint(reading, (*states, *map(digest, reading.arrays)), known, together)


def _digest(state: Any) -> object:
    """The state of a generator, in short."""
    return bytes(state.tolist()) if isinstance(state, Tensor) else str(state)


def _are_same_places(one: Reachable, other: Reachable) -> bool:
    """Whether the same was met on the same ways; equal values and containers count as the same."""

    def same(ours: Any, theirs: Any) -> bool:
        kind = type(ours)
        if ours is theirs:
            return True
        if kind is not type(theirs):
            return False
        if kind in ATOMS:
            return bool(repr(ours) == repr(theirs) if kind in _DECIMALS else ours == theirs)
        return kind in CONTAINERS and one.order[id(ours)] == other.order[id(theirs)]

    if len(one.places) != len(other.places) or len(one.empty) != len(other.empty):
        return False
    return all(map(same, one.empty, other.empty)) and all(
        same(ours[0], theirs[0])
        and len(ours[2]) == len(theirs[2])
        and all(map(same, ours[2], theirs[2]))
        for ours, theirs in zip(one.places, other.places, strict=True)
    )


#: Of which neither -0.0 and 0.0 are the same, nor NaN and itself another.
_DECIMALS = (float, complex)


def _surroundings() -> tuple[object, ...]:
    """What a forward depends on beyond what it holds: the environment, and torch's own state."""
    depth = torch._C._len_torch_dispatch_stack()
    return (
        tuple(pair for pair in os.environ.items() if pair[0] != "PYTEST_CURRENT_TEST"),
        tuple(read_switches()),
        tuple(map(id, (*vars(torch).values(), *vars(nn.functional).values()))),
        tuple(id(torch._C._get_dispatch_stack_at(i)) for i in range(depth)),
        tuple(nn.modules.module._global_forward_hooks),
        tuple(nn.modules.module._global_forward_pre_hooks),
        tuple(nn.modules.module._global_backward_hooks),
        tuple(nn.modules.module._global_backward_pre_hooks),
    )


def _tensor_state(tensor: Tensor) -> tuple[object, ...]:
    if is_lazy(tensor):
        return (id(tensor),)
    version = -1 if tensor.is_inference() else tensor._version
    return id(tensor), tensor.requires_grad, version, _whole_numbers(tensor)


def _whole_numbers(tensor: Tensor) -> int:
    """A checksum of integers and truth values, which have no norm; 0 for all else."""
    tensor = own_part(tensor)
    plain = tensor.layout == torch.strided and on_host(tensor) and type(tensor) is Tensor
    if not plain or tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized:
        return 0
    return zlib.crc32(tensor.detach().numpy().tobytes()) if has_memory(tensor) else 0

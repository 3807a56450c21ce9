"""Tells whether anything that a probe depends on has changed since it was last looked at."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pytest_gradhealth.isolation.kept_tensor import numbers_of, same_bits
from pytest_gradhealth.isolation.places import CONTAINERS
from pytest_gradhealth.isolation.reachable import ATOMS, Reachable

#: Elements of a tensor that are compared one by one.
SAMPLE = 64


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
    numbers: dict[torch.device, list[Tensor]] = {}
    with torch.no_grad():
        for tensor in reading.tensors:
            for part in numbers_of(tensor):
                numbers.setdefault(part.device, []).append(part)
        together = {device: torch.cat(parts) for device, parts in numbers.items()}
    states = tuple(_digest(items[0]) for _, kind, items in reading.places if kind.state)
    reading.forget_states()
    known = _surroundings(), tuple(map(_tensor_state, reading.tensors))
    return Fingerprint(reading, states, known, together)


def _digest(state: Any) -> object:
    """The state of a generator or an array, in short."""
    if isinstance(state, Tensor):
        return state.cpu().numpy().tobytes()
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(state, numpy.ndarray):
        return state.shape, str(state.dtype), zlib.crc32(state.tobytes())
    return str(state)


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

    return len(one.places) == len(other.places) and all(
        same(ours[0], theirs[0])
        and len(ours[2]) == len(theirs[2])
        and all(map(same, ours[2], theirs[2]))
        for ours, theirs in zip(one.places, other.places, strict=True)
    )


#: Of which neither -0.0 and 0.0 are the same, nor NaN and itself another.
_DECIMALS = (float, complex)


def _surroundings() -> tuple[object, ...]:
    """What of torch's own state a forward depends on."""
    return (
        torch.get_default_dtype(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.is_autocast_enabled("cuda"),
        torch.get_autocast_dtype("cuda"),
        torch.are_deterministic_algorithms_enabled(),
        tuple(nn.modules.module._global_forward_hooks),
        tuple(nn.modules.module._global_forward_pre_hooks),
    )


def _tensor_state(tensor: Tensor) -> tuple[object, ...]:
    if is_lazy(tensor):
        return (id(tensor),)
    version = -1 if tensor.is_inference() else tensor._version
    return id(tensor), tensor.requires_grad, version

"""What modules still feel of another batch while others return what they did before."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.measure.loops import Call, Loop
from pytest_gradhealth.measure.perturbation import MOST, is_same, on_another_batch, weighted_sum
from pytest_gradhealth.measure.recorder import Key
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.trees import map_tensors, tensors


def fed(
    subject: Subject, crossed: Iterable[tuple[Loop, Collection[Call]]], *, seed: int
) -> frozenset[str]:
    """Return the modules of loops whose later steps get data of their own.

    The calls of a path and of a loop on it are held at zero: what another batch still changes in
    there has come from elsewhere, and is more than a mask or a graph of what there is. A layer that
    is repeated in depth feels nothing. To be called inside `isolated`. Where that cannot be told,
    what a loop loses counts as memory.
    """
    found: set[str] = set()
    for loop, path in [*crossed][:MOST]:
        if not found.issuperset(loop.names) and _feels(subject, loop, {*path, *loop.calls}, seed):
            found |= loop.names
    return frozenset(found)


def _feels(subject: Subject, loop: Loop, calls: Collection[Call], seed: int) -> bool:
    names = {name for name, _ in calls}
    modules = {name: m for name, m in subject.model.named_modules() if name in names}
    held = Held(modules, calls)
    try:
        with held.attached():
            Pass(subject, seed).forward()
            held.begin(keep=_zeros)
            Pass(subject, seed).forward()
            ours = held.begin()
            Pass(on_another_batch(subject), seed).forward()
            theirs = held.begin()
    except (ProbeError, RuntimeError):  # the model refuses it, or it cannot be taken to pieces
        return True
    changed = {key[:2] for key in ours if not is_same(ours[key], theirs.get(key, math.nan))}
    return not changed.isdisjoint(loop.later)


def _copy(outputs: Any) -> Any:
    """What a module returned, safe from operations that write to it."""
    return map_tensors(lambda tensor: tensor.detach().clone(), outputs)


def _zeros(outputs: Any) -> Any:
    """Zeros in place of the numbers that a module returned."""
    return map_tensors(lambda t: torch.zeros_like(t) if t.is_floating_point() else t, outputs)


@dataclass
class Held:
    """Modules that, from the second forward on, return what they returned in the first one.

    With `calls`, only those of them do.
    """

    modules: dict[str, nn.Module]
    calls: Collection[Call] | None = None
    _kept: dict[Call, Any] | None = None
    _returned: dict[Call, Any] = field(default_factory=dict)
    _calls: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hooks on the modules for the length of the context."""
        handles = [m.register_forward_hook(self._hook(n)) for n, m in self.modules.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def begin(self, keep: Callable[[Any], Any] = _copy) -> dict[Key, float]:
        """End a forward and begin the next; return fingerprints of what the modules computed.

        What the first one returned is kept for the others, or what `keep` makes of it.
        """
        returned = self._returned
        if self._kept is None:
            calls = returned if self.calls is None else self.calls
            self._kept = {call: keep(value) for call, value in returned.items() if call in calls}
        self._returned, self._calls = {}, Counter()
        return {
            (name, call, number): float(weighted_sum(tensor))
            for (name, call), value in returned.items()
            for number, tensor in enumerate(tensors(value))
        }

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, outputs: Any) -> Any:
            del module, inputs
            key = name, self._calls[name]
            self._calls[name] += 1
            self._returned[key] = _copy(outputs)
            kept = self._kept or {}
            return _copy(kept[key]) if key in kept else outputs

        return hook

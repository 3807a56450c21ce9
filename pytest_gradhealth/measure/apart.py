"""Which parameters that get no gradient from a loss are left to something else to train.

A codebook that the forward itself moves, a teacher that follows its student, an encoder that was
trained before and runs under no_grad() beside layers that see the same data.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.measure.perturbation import (
    MOST,
    fingerprints,
    is_same,
    other_batch,
    weighted_sum,
)
from pytest_gradhealth.measure.recorder import Key
from pytest_gradhealth.results.names import ancestry
from pytest_gradhealth.results.path import SMALL_PART
from pytest_gradhealth.results.profile import GradientProfile, ParameterRecord
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.modules import is_shared
from pytest_gradhealth.tensors.trees import map_tensors, tensors

#: Columns, channels or features of an input that are changed at a time are one in so many.
PIECES = 32


def trained_apart(
    subject: Subject, profile: GradientProfile, cut: Sequence[str], *, seed: int
) -> Collection[str]:
    """Return the parameters without a gradient that something else trains.

    `cut` are those that change the loss nonetheless. Where the forward of a model waits for other
    processes, only what needs none is looked at.
    """
    copies = _copies(profile, cut)
    if is_shared(subject.model):
        return copies
    silent = [p for p in profile.parameters if p.state == "none"]
    copied = [p for p in silent if p.name in copies]
    if copied:
        with subject.isolated():
            if not _sees_the_same(subject, profile, copied, seed):
                copies = ()
    with subject.isolated():
        known = {*copies, *_written(subject, [p.name for p in silent], seed)}
    rest = [p for p in silent if p.name in cut and p.name not in known]
    if rest and _is_small(rest, profile):
        with subject.isolated():
            if _runs_without_a_graph(profile, rest) and _sees_the_same(
                subject, profile, rest, seed
            ):
                known |= {p.name for p in rest}
    return [p.name for p in silent if p.name in known]


def _written(subject: Subject, names: Collection[str], seed: int) -> Collection[str]:
    """Parameters that a forward writes, or puts another in the place of."""
    before = _values(subject.model, names)
    try:
        Pass(subject, seed).forward()
    except ProbeError:
        return ()
    after = _values(subject.model, names)
    return [name for name, value in before.items() if after.get(name, value) != value]


def _values(model: nn.Module, names: Collection[str]) -> dict[str, float]:
    found = dict(model.named_parameters())
    return {name: float(weighted_sum(found[name])) for name in names if name in found}


def _copies(profile: GradientProfile, cut: Collection[str]) -> Collection[str]:
    """Parameters in modules that have the values of modules which do get a gradient."""
    records = {p.name: p for p in profile.parameters}
    found: list[str] = []
    for whole in _wholes(profile, cut):
        inside = {n.removeprefix(f"{whole}."): n for n in cut if n.startswith(f"{whole}.")}
        first = next(iter(inside))
        if not any(len(records[name].shape) > 1 for name in inside.values()):
            continue
        twins = [n.removesuffix(first) for n in records if f".{n}".endswith(f".{first}")]
        if any(
            all(_is_copy(records[name], records.get(twin + part)) for part, name in inside.items())
            for twin in twins
        ):
            found += inside.values()
    return found


def _is_copy(one: ParameterRecord, other: ParameterRecord | None) -> bool:
    return (
        other is not None
        and other.gradient is not None
        and (one.shape, one.norm) == (other.shape, other.norm)
    )


def _wholes(profile: GradientProfile, cut: Collection[str]) -> list[str]:
    """The outermost modules of whose trainable parameters none gets a gradient."""
    alive = {
        prefix
        for parameter in profile.parameters
        if parameter.state not in ("none", "frozen")
        for prefix in _around(parameter.name)
    }
    tops = (next((m for m in _around(name) if m not in alive), None) for name in cut)
    return [*dict.fromkeys(top for top in tops if top is not None)]


def _around(parameter: str) -> list[str]:
    owner = parameter.rpartition(".")[0]
    return ancestry(owner) if owner else []


def _is_small(part: Sequence[ParameterRecord], profile: GradientProfile) -> bool:
    whole = (math.prod(p.shape) for p in profile.parameters if p.state != "frozen")
    return sum(math.prod(p.shape) for p in part) < SMALL_PART * sum(whole)


def _runs_without_a_graph(profile: GradientProfile, part: Sequence[ParameterRecord]) -> bool:
    names = _wholes(profile, [p.name for p in part])
    states = {o.state for o in profile.outputs if any(_is_in(o.name, whole) for whole in names)}
    return states <= {"no-grad", "not-called", "no-tensor"}


def _sees_the_same(
    subject: Subject, profile: GradientProfile, part: Sequence[ParameterRecord], seed: int
) -> bool:
    """Whether whatever a part feels of the batch, other layers feel without it.

    The part is held at what it returned, while the batch is changed piece by piece: where the first
    layers of the gradient paths then stay the same, they depend on it.
    """
    names = _wholes(profile, [p.name for p in part])
    inside = [n for n, _ in subject.model.named_modules() if any(_is_in(n, w) for w in names)]
    if not all(any(_is_in(p.name, whole) for whole in names) for p in part):
        return False
    held = Held({name: subject.model.get_submodule(name) for name in inside})
    firsts = [path.first for path in profile.judged_paths]
    keys = {(first.name, first.call, first.output) for first in firsts}
    felt = False
    try:
        with held.attached():
            ours, before = fingerprints(subject, seed), held.begin()
            for other in _changed(subject):
                theirs, after = fingerprints(other, seed), held.begin()
                if _agree(before, after, before):
                    continue
                felt = True
                if _agree(ours, theirs, keys & ours.keys()):
                    return False
    except (ProbeError, RuntimeError):  # the model refuses it, or it cannot be taken to pieces
        return False
    return felt


def _agree(ours: Mapping[Key, float], theirs: Mapping[Key, float], keys: Iterable[Key]) -> bool:
    return all(is_same(ours[key], theirs.get(key, math.nan)) for key in keys)


def _is_in(name: str, whole: str) -> bool:
    return f"{name}.".startswith(f"{whole}.")


def _changed(subject: Subject) -> Iterator[Subject]:
    """The subject with another batch in one piece of one input, for each of them."""
    given = list(dict.fromkeys(tensors(subject.inputs)))
    for tensor in given[:MOST]:
        other = other_batch(tensor)
        dim = 2 if not tensor.is_nested and tensor.dim() == 3 else 1
        size = 1 if tensor.is_nested or tensor.dim() < 2 else tensor.shape[dim]
        for piece in torch.arange(size, device=tensor.device).tensor_split(min(size, PIECES)):
            mixed = other
            if size > 1:
                mixed = tensor.detach().index_copy(dim, piece, other.index_select(dim, piece))
            exchange = partial(_exchanged, tensor, mixed)
            yield replace(subject, inputs=map_tensors(exchange, subject.inputs))


def _exchanged(tensor: Tensor, mixed: Tensor, item: Tensor) -> Tensor:
    return mixed.requires_grad_(tensor.requires_grad) if item is tensor else item


def _copy(outputs: Any) -> Any:
    """What a module returned, safe from operations that write to it."""
    return map_tensors(lambda tensor: tensor.detach().clone(), outputs)


@dataclass
class Held:
    """Modules that, from the second forward on, return what they returned in the first one."""

    modules: dict[str, nn.Module]
    _kept: dict[tuple[str, int], Any] | None = None
    _returned: dict[tuple[str, int], Any] = field(default_factory=dict)
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

    def begin(self) -> dict[Key, float]:
        """End a forward and begin the next; return fingerprints of what the modules computed."""
        returned = self._returned
        if self._kept is None:
            self._kept = returned
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

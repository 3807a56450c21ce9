"""Which parameters that get no gradient from a loss are left to something else to train.

A codebook that the forward itself moves, a teacher that follows its student, a generator in the
step of its critic, an encoder that was trained before and runs under no_grad() beside layers that
see the same data.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from pytest_gradhealth.measure.asked import asked
from pytest_gradhealth.measure.held import Held
from pytest_gradhealth.measure.perturbation import (
    MOST,
    fingerprints,
    is_same,
    nudged,
    on_another_batch,
    other_batch,
    weighted_sum,
)
from pytest_gradhealth.measure.recorder import Key
from pytest_gradhealth.results.names import ancestry, outermost
from pytest_gradhealth.results.path import SMALL_PART
from pytest_gradhealth.results.profile import GradientProfile, ParameterRecord
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.modules import waits_for_others
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
    silent = [p for p in profile.parameters if p.state == "none"]
    found = {*_copies(profile, cut)}
    if not waits_for_others(subject.model):
        copied = _Part(profile, [p for p in silent if p.name in found])
        if found and not (
            _sees_the_same(subject, copied, seed) or _is_target(subject, copied, seed)
        ):
            found.clear()
        found.update(_written(subject, [p.name for p in silent], seed))
        rest = _Part(profile, [p for p in silent if p.name in cut and p.name not in found])
        if rest.parameters and (
            _is_noise(subject, rest, seed)
            or (rest.is_a_small_aside and _sees_the_same(subject, rest, seed))
        ):
            found.update(p.name for p in rest.parameters)
    return [p.name for p in silent if p.name in found]


@dataclass(frozen=True)
class _Part:
    """Some parameters without a gradient, in the look that shows them."""

    profile: GradientProfile
    parameters: Sequence[ParameterRecord]

    @cached_property
    def wholes(self) -> Sequence[str]:
        """The outermost modules that hold them, and no other that is trained here."""
        return _wholes(self.profile, [p.name for p in self.parameters])

    @property
    def is_a_small_aside(self) -> bool:
        """Whether it is a small share of the model, and none of it leaves a graph."""
        whole = (math.prod(p.shape) for p in self.profile.parameters if p.state != "frozen")
        states = {output.state for output in self.profile.outputs if self._has(output.name)}
        return (
            sum(math.prod(p.shape) for p in self.parameters) < SMALL_PART * sum(whole)
        ) and states <= {"no-grad", "not-called", "no-tensor"}

    def modules(self, model: nn.Module) -> dict[str, nn.Module]:
        """The modules that it consists of, by name."""
        return {name: module for name, module in model.named_modules() if self._has(name)}

    @property
    def firsts(self) -> Collection[Key]:
        """The outputs that the gradient paths of the look begin with."""
        return {path.first.key for path in self.profile.judged_paths}

    def _has(self, module: str) -> bool:
        return any(f"{module}.".startswith(f"{whole}.") for whole in self.wholes)


def _copies(profile: GradientProfile, cut: Collection[str]) -> Iterator[str]:
    """Parameters in modules that have the values of modules which do get a gradient."""
    records = {p.name: p for p in profile.parameters}
    alive = {(p.name, p.shape, p.norm) for p in profile.parameters if p.gradient is not None}
    for whole in _wholes(profile, cut):
        inside = [records[name] for name in cut if name.startswith(f"{whole}.")]
        first = inside[0].name.removeprefix(f"{whole}.")
        twins = [n.removesuffix(first) for n in records if f".{n}".endswith(f".{first}")]
        if any(len(p.shape) > 1 for p in inside) and any(
            all((twin + p.name.removeprefix(f"{whole}."), p.shape, p.norm) in alive for p in inside)
            for twin in twins
        ):
            yield from (p.name for p in inside)


def _wholes(profile: GradientProfile, names: Collection[str]) -> list[str]:
    """The outermost modules of whose trainable parameters none gets a gradient."""
    trained = (p for p in profile.parameters if p.state not in ("none", "frozen"))
    alive = {module for p in trained for module in ancestry(_owner(p.name))}
    return [*dict.fromkeys(filter(None, (outermost(_owner(name), alive) for name in names)))]


def _owner(parameter: str) -> str:
    return parameter.rpartition(".")[0]


@asked(())
def _written(subject: Subject, names: Collection[str], seed: int) -> Collection[str]:
    """Parameters that a forward writes, or puts another in the place of."""
    before = _values(subject.model, names)
    Pass(subject, seed).forward()
    after = _values(subject.model, names)
    return tuple(name for name, value in before.items() if after.get(name, value) != value)


def _values(model: nn.Module, names: Collection[str]) -> dict[str, float]:
    found = dict(model.named_parameters())
    return {name: float(weighted_sum(found[name])) for name in names if name in found}


@asked(False)
def _sees_the_same(subject: Subject, part: _Part, seed: int) -> bool:
    """Whether whatever a part feels of the batch, other layers feel without it.

    The part is held at what it returned, while the batch is changed piece by piece: where the first
    layers of the gradient paths then stay the same, they depend on it.
    """
    modules = part.modules(subject.model)
    if not all(p.module in modules for p in part.parameters):
        return False
    held, felt = Held(modules), False
    with held.attached():
        ours, before = fingerprints(subject, seed), held.begin()
        for other in _changed(subject):
            theirs, after = fingerprints(other, seed), held.begin()
            if not _agree(before, after, before):
                felt = True
                if _agree(ours, theirs, part.firsts & ours.keys()):
                    return False
    return felt


@asked(False)
def _is_target(subject: Subject, part: _Part, seed: int) -> bool:
    """Whether no layer that gets a gradient feels what a part returns: that is for the loss."""
    busy = {p.module for p in part.profile.parameters if p.gradient}
    held = Held(part.modules(subject.model), change=nudged)
    with held.attached():
        ours, _ = fingerprints(subject, seed), held.begin()
        theirs = fingerprints(subject, seed)
    return _agree(ours, theirs, [key for key in ours if key[0] in busy])


@asked(False)
def _is_noise(subject: Subject, part: _Part, seed: int) -> bool:
    """Whether a part is made of random numbers alone, and other layers of the batch.

    As a generator is in the step of its critic.
    """
    free = Held(part.modules(subject.model), calls=())
    with free.attached():
        ours, made = fingerprints(subject, seed), free.begin()
        theirs, same = fingerprints(on_another_batch(subject), seed), free.begin()
        _, drawn = fingerprints(subject, seed + 1), free.begin()
    alone = _agree(made, same, made) and not _agree(made, drawn, made)
    return alone and not _agree(ours, theirs, part.firsts & ours.keys())


def _agree(ours: Mapping[Key, float], theirs: Mapping[Key, float], keys: Iterable[Key]) -> bool:
    return all(is_same(ours[key], theirs.get(key, math.nan)) for key in keys)


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

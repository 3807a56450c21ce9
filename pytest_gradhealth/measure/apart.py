"""Which parameters that get no gradient from a loss are left to something else to train.

A codebook that the forward itself moves, a teacher that follows its student, a generator in the
step of its critic, an encoder that was trained before and runs under no_grad() beside layers that
see the same data.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from pytest_gradhealth.errors import ProbeError
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
from pytest_gradhealth.results.names import ancestry
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
    copies = _copies(profile, cut)
    if waits_for_others(subject.model):
        return copies
    silent = [p for p in profile.parameters if p.state == "none"]
    copied = [p for p in silent if p.name in copies]
    if copied:
        with subject.isolated():
            if not (
                _sees_the_same(subject, profile, copied, seed)
                or _is_target(subject, profile, copied, seed)
            ):
                copies = ()
    with subject.isolated():
        known = {*copies, *_written(subject, [p.name for p in silent], seed)}
    rest = [p for p in silent if p.name in cut and p.name not in known]
    if rest:
        with subject.isolated():
            if _is_noise(subject, profile, rest, seed) or (
                _is_small(rest, profile)
                and _runs_without_a_graph(profile, rest)
                and _sees_the_same(subject, profile, rest, seed)
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
    inside = _modules(subject, profile, part)
    if not all(p.module in inside for p in part):
        return False
    held = Held(inside)
    keys = {path.first.key for path in profile.judged_paths}
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


def _is_target(
    subject: Subject, profile: GradientProfile, part: Sequence[ParameterRecord], seed: int
) -> bool:
    """Whether no layer that gets a gradient feels what a part returns: that is for the loss."""
    busy = {p.module for p in profile.parameters if p.gradient}
    held = Held(_modules(subject, profile, part), change=nudged)
    try:
        with held.attached():
            ours, _ = fingerprints(subject, seed), held.begin()
            theirs = fingerprints(subject, seed)
    except (ProbeError, RuntimeError):  # the model cannot be taken to pieces
        return False
    return _agree(ours, theirs, [key for key in ours if key[0] in busy])


def _is_noise(
    subject: Subject, profile: GradientProfile, part: Sequence[ParameterRecord], seed: int
) -> bool:
    """Whether a part is made of random numbers alone, and other layers of the batch.

    As a generator is in the step of its critic.
    """
    free = Held(_modules(subject, profile, part), calls=())
    try:
        with free.attached():
            ours, made = fingerprints(subject, seed), free.begin()
            theirs, same = fingerprints(on_another_batch(subject), seed), free.begin()
            _, drawn = fingerprints(subject, seed + 1), free.begin()
    except ProbeError:
        return False
    firsts = {path.first.key for path in profile.judged_paths} & ours.keys()
    alone = _agree(made, same, made) and not _agree(made, drawn, made)
    return alone and not _agree(ours, theirs, firsts)


def _modules(
    subject: Subject, profile: GradientProfile, part: Sequence[ParameterRecord]
) -> dict[str, nn.Module]:
    """The modules that a part consists of, by name."""
    names = _wholes(profile, [p.name for p in part])
    modules = subject.model.named_modules()
    return {name: m for name, m in modules if any(_is_in(name, whole) for whole in names)}


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

"""What depends on what, found by changing something and looking at what comes of it.

Another batch shows which module outputs carry data, other outputs which layers the loss ignores.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pytest_gradhealth.distributed.team import anywhere
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.measure.recorder import Key, Recorder
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.hooks import hooked
from pytest_gradhealth.tensors.trees import map_tensors, tensors
from pytest_gradhealth.tensors.unwrap import packed

#: Layers that are asked one by one, where some of them matter.
MOST = 16
#: The least change of an output, as a share of its mean size; of zeros, of this size.
NUDGE = 1e-3


def data_carriers(subject: Subject, *, seed: int) -> Collection[Key] | None:
    """Return the module outputs that change when the batch does, under the same random numbers.

    None if that cannot be told: no input could be changed, or the model refuses the other batch.
    A position bias or a parametrised weight computes the same whatever the batch.
    """
    try:
        ours = fingerprints(subject, seed)
        theirs = fingerprints(on_another_batch(subject), seed)
    except ProbeError:
        return None
    changed = {key for key, value in ours.items() if not is_same(value, theirs.get(key, math.nan))}
    return changed or None


def on_another_batch(subject: Subject) -> Subject:
    """The same subject with another batch."""
    return replace(subject, inputs=map_tensors(_other, subject.inputs))


def _other(tensor: Tensor) -> Tensor:
    """Another batch, by which a forward may differentiate if it could before."""
    return other_batch(tensor).requires_grad_(tensor.requires_grad)


def other_batch(tensor: Tensor) -> Tensor:
    """Another batch of the same kind: its examples in reverse order or, failing that, reversed."""
    if tensor.dtype == torch.bool or tensor.dim() == 0:
        return tensor
    if tensor.is_nested:
        return tensor.detach() * 0.5
    for flipped in (tensor.flip(0), tensor.flip(tuple(range(tensor.dim())))):
        if not torch.equal(flipped, tensor):
            return flipped.detach()
    return tensor.detach() * 0.5 if tensor.is_floating_point() else tensor


def fingerprints(subject: Subject, seed: int, functional: bool = False) -> dict[Key, float]:
    """A number for each module output of one forward; to be called inside `isolated`."""
    run = Pass(subject, seed)
    recorder = Recorder(subject.model, functional, weighted_sum)
    with recorder.attached():
        recorder.mark_inputs(run.inputs)
        run.forward()
        recorder.close()
        if recorder.missed:
            return fingerprints(subject, seed, functional=True)
    marks = [mark for mark in recorder.marks if mark.activation is not None]
    return {mark.key: float(mark.activation) for mark in marks if mark.activation is not None}


def weighted_sum(tensor: Tensor) -> Tensor:
    """A number that changes when elements change or trade places."""
    values: Any = packed(tensor.detach()).reshape(-1)
    values = torch.view_as_real(values).reshape(-1) if values.is_complex() else values
    dtype = torch.float32 if values.device.type == "mps" else torch.float64
    weights = torch.arange(1, values.numel() + 1, device=values.device, dtype=dtype).cos()
    return torch.dot(values.to(dtype), weights)


def is_same(a: float, b: float) -> bool:
    """Whether two fingerprints differ by no more than rounding."""
    return a == b or abs(a - b) <= 1e-6 * max(abs(a), abs(b))


def without_influence(subject: Subject, names: Sequence[str], *, seed: int) -> Collection[str]:
    """Return the modules of which the loss stays the same whatever they return.

    Each forward draws the same random numbers. A layer behind a detach() changes the loss and gets
    no gradient; one whose output nobody reads (a pooler without a head) does not change it. To be
    called inside `isolated`.
    """
    try:
        before = shifted_loss(subject, (), seed)
        if not anywhere(subject.model, not torch.equal(before, shifted_loss(subject, names, seed))):
            return frozenset(names)
        shifted = ((name, shifted_loss(subject, [name], seed)) for name in names[:MOST])
        return frozenset(name for name, after in shifted if torch.equal(before, after))
    except ProbeError:
        return frozenset()


def remembering(subject: Subject, names: Sequence[str], *, seed: int) -> list[str]:
    """Return the modules whose later calls feel what went into their first one and came out.

    That is a memory, whether or not a gradient goes back through it. Every forward begins with the
    same state and random numbers; nothing is told of a model that is not the same twice.
    """
    names = names[:MOST]
    try:
        plain, again = (_later_calls(subject, names, "", seed) for _ in range(2))
        return [
            name
            for name in names
            if _equal(plain[name], again[name])
            and not _equal(plain[name], _later_calls(subject, names, name, seed)[name])
        ]
    except ProbeError:
        return []


def _equal(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(map(is_same, one, other))


def _later_calls(
    subject: Subject, names: Sequence[str], shifted: str, seed: int
) -> dict[str, list[float]]:
    """All that goes through each of some modules after the first call, while one's is shifted."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    begun: set[str] = set()

    def before(name: str, _: nn.Module, args: Any, kwargs: Any) -> Any:
        return map_tensors(_shifted, (args, kwargs)) if name == shifted not in begun else None

    def after(name: str, _: nn.Module, args: Any, kwargs: Any, outputs: Any) -> Any:
        if name in begun:
            seen[name] += map(weighted_sum, tensors((args, kwargs, outputs)))
            return None
        begun.add(name)
        return map_tensors(_shifted, outputs) if name == shifted else None

    modules = dict(subject.model.named_modules())
    entered = ((modules[name], partial(before, name)) for name in names)
    left = ((modules[name], partial(after, name)) for name in names)
    with (
        subject.isolated(),
        hooked(m.register_forward_pre_hook(hook, with_kwargs=True) for m, hook in entered),
        hooked(m.register_forward_hook(hook, with_kwargs=True) for m, hook in left),
    ):
        Pass(subject, seed).forward()
    return {name: [float(value) for value in values] for name, values in seen.items()}


def shifted_loss(subject: Subject, shifted: Collection[str], seed: int) -> Tensor:
    """The loss where all that some modules return is changed."""
    modules = dict(subject.model.named_modules())
    with hooked(modules[name].register_forward_hook(_shift) for name in shifted):
        return Pass(subject, seed).run().detach()


def _shift(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    del module, inputs
    return map_tensors(_shifted, outputs)


def _shifted(tensor: Tensor, size: float | Tensor = 1.0) -> Tensor:
    """Change every element, and none like its neighbour: losses may not feel a constant."""
    if not tensor.is_floating_point():
        return tensor
    waves = size * torch.arange(tensor.numel(), device=tensor.device, dtype=torch.float32).cos()
    return tensor + waves.view(tensor.shape).to(tensor.dtype)


def nudged(tensor: Tensor) -> Tensor:
    """Change every element by so little that what has no slope there would not feel it."""
    if not tensor.is_floating_point():
        return tensor
    return _shifted(tensor, NUDGE * tensor.abs().float().mean().clamp(min=NUDGE))

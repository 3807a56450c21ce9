"""Whether what a stretch without layers loses is what steps have forgotten.

A state that is carried through steps is made part of data as it goes. What it loses there, the data
of earlier steps lose as well: step by step, up to what the last one gets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

import torch
from torch import Tensor

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.measure.every_gradient import read_every_gradient
from pytest_gradhealth.measure.loop import Gates, Loop
from pytest_gradhealth.measure.recorder import Key
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.trees import map_tensors
from pytest_gradhealth.training.copies import copied

#: The share that one step leaves at least, and of the decades lost what it loses at most: what
#: loses more in one place has been shut.
LEFT, PART = 1e-2, 0.25

#: The largest elements of the slices of a tensor along each of its dimensions.
Slices = Sequence[Tensor]


def forgetful(loops: Iterable[Loop], subject: Subject, *, seed: int) -> set[str]:
    """Return the names of those loops of gates that forget something from beside as well.

    That gets step by step less, down to what comes to the door. To be called inside `isolated`.
    Where it cannot be told, what is lost counts as forgotten.
    """
    gated = [(loop, loop.gates) for loop in loops if loop.gates is not None]
    sizes = _sizes(subject, seed) if gated else None
    return {
        name
        for loop, gates in gated
        if sizes is None or _forget(gates, sizes)
        for name in loop.names
    }


def _sizes(subject: Subject, seed: int) -> Mapping[Key, Slices] | None:
    """The gradients of all that modules return, and of floating inputs; None where it cannot be.

    In double precision where that works: decays that are summed as logarithms leave rounding.
    """
    for precise in (True, False):
        with suppress(ProbeError, RuntimeError, TypeError), _doubled(subject, precise) as twin:
            marks, _ = read_every_gradient(twin, _largest, seed=seed, inputs=True)
            found = ((m.key, m.gradient, [*m.shape] or [1]) for m in marks)
            return {k: torch.split(g, shape) for k, g, shape in found if g is not None and len(g)}
    return None


@contextmanager
def _doubled(subject: Subject, precise: bool) -> Iterator[Subject]:
    """A subject that computes in double precision, if it is to be `precise`."""
    twin, _ = copied(subject, None, subject.device) if precise else (subject, None)
    if twin is subject:
        yield subject
        return
    before = torch.get_default_dtype()
    for module in twin.modules:
        module.double()
    inputs, targets = map_tensors(_double, (twin.inputs, twin.targets))
    try:
        torch.set_default_dtype(torch.float64)
        yield replace(twin, inputs=inputs, targets=targets)
    finally:
        torch.set_default_dtype(before)


def _double(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


def _forget(gates: Gates, sizes: Mapping[Key, Slices]) -> bool:
    """Whether anything from beside is forgotten; what comes by way of the door tells nothing."""
    whole = max(_most(sizes.get(end, ())) for end in gates.ends)
    door = _most(sizes.get(gates.door, ()))
    return any(
        _leads(turned, door, whole)
        for key, slices in sizes.items()
        if key not in gates.behind
        for along in slices
        for turned in (along, along.flip(0))
    )


def _largest(gradient: Tensor) -> Tensor:
    """The largest elements of all slices, dimension after dimension; none if there are none."""
    if gradient.layout is not torch.strided or gradient.is_nested or not gradient.numel():
        return torch.empty(0)
    size = gradient.abs().reshape(gradient.shape or (1,))
    return torch.cat(
        [size.movedim(dim, 0).reshape(n, -1).amax(1) for dim, n in enumerate(size.shape)]
    )


def _most(slices: Slices) -> float:
    return max((float(along.max()) for along in slices), default=0.0)


def _leads(slices: Tensor, door: float, whole: float) -> bool:
    """Whether slices lead from what a door gets up to the whole of it, by no more than steps.

    Where both get less than rounding leaves of the whole, as of sums of logarithms, from there.
    """
    least = whole * 4 * torch.finfo(slices.dtype).eps
    door = max(door, least)
    seen = slices[slices > least].clamp(min=door).cummax(0).values
    way = torch.cat([seen.new_tensor([door]), seen, seen.new_tensor([whole])])
    return whole > 0 and bool((way[:-1] >= max(LEFT, (door / whole) ** PART) * way[1:]).all())

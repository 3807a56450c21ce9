"""Which lists of layers send examples to their members, as a mixture of experts does.

A member that this batch leaves idle is one that another batch, or other random numbers, may wake;
one that the forward forgets to call is not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.measure.every_gradient import read_every_gradient
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.modules import waits_for_others
from pytest_gradhealth.tensors.norms import l2_norm
from pytest_gradhealth.tensors.trees import map_tensors
from pytest_gradhealth.tensors.unwrap import odd_kind

#: Runs that are made as long as no list has stirred.
TRIES = 8


def routed(subject: Subject, lists: Collection[str], *, seed: int) -> tuple[str, ...] | None:
    """Return the lists whose members do another share of the work for another batch or seed.

    None where that cannot be told: the model waits for other processes, or fails. To be called
    inside `isolated`.
    """
    if waits_for_others(subject.model):
        return None
    shares = _shares(subject, lists, seed)
    found: dict[str, None] = {}
    for number in range(1, TRIES + 1):
        change = partial(_changed, _CHANGES[number % len(_CHANGES)])
        inputs = map_tensors(change, subject.inputs)
        other = _shares(replace(subject, inputs=inputs), lists, seed + number)
        found |= dict.fromkeys(name for name in other if other[name] != shares.get(name))
        if not shares or len(found) == len(lists):
            break
    return tuple(found) if shares else None


def _shares(subject: Subject, lists: Collection[str], seed: int) -> dict[str, Any]:
    """By list, what its members return and which of them have a say; nothing if the model fails."""
    try:
        marks, parameters = read_every_gradient(subject, l2_norm, seed=seed)
    except ProbeError:
        return {}
    felt = [name for name, norm in parameters.items() if float(norm)]
    return {
        name: (
            [(mark.name, mark.shape) for mark in marks if _member(mark.name, name)],
            {_member(parameter, name) for parameter in felt},
        )
        for name in lists
    }


def _member(name: str, owner: str) -> str:
    """The member of a list that something is in, "" for none."""
    inside = f"{owner}." if owner else ""
    return name.removeprefix(inside).partition(".")[0] if name.startswith(inside) else ""


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _first_row(tensor: Tensor) -> Tensor:
    """A batch of one example again and again."""
    return tensor[:1].expand_as(tensor).clone()


def _drawn(tensor: Tensor) -> Tensor:
    """Numbers of the same kind and range; whole ones are those that are there, in any order."""
    if tensor.is_floating_point():
        return torch.randn_like(tensor) * (tensor.std(correction=0) + tensor.mean().abs())
    places = torch.randint(tensor.numel(), (tensor.numel(),), device=tensor.device)
    return tensor.reshape(-1)[places].view(tensor.shape)


def _changed(change: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    """Another tensor, by which a forward may differentiate if it could before; or an odd one."""
    odd = tensor.is_nested or tensor.dtype == torch.bool or odd_kind(tensor)
    if odd or not (tensor.dim() and tensor.numel()):
        return tensor
    return change(tensor.detach()).requires_grad_(tensor.requires_grad)


_CHANGES: tuple[Callable[[Tensor], Tensor], ...] = (_as_it_is, _drawn, _first_row, _drawn)

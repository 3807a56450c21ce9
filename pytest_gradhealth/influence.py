"""Whether the loss depends on a layer, asked of the forward: where no gradient can tell."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pytest_gradhealth.capture import Subject
from pytest_gradhealth.distributed import anywhere
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.isolation import seed_everything
from pytest_gradhealth.tree import map_tensors

#: Layers that are asked one by one, where some of them matter.
MOST = 16


def without_influence(subject: Subject, names: Sequence[str], *, seed: int) -> Collection[str]:
    """Return the modules of which the loss stays the same whatever they return.

    Each forward draws the same random numbers. A layer behind a detach() changes the loss and gets
    no gradient; one whose output nobody reads (a pooler without a head) does not change it. To be
    called inside `isolated`.
    """
    try:
        before = _loss(subject, (), seed)
        if not anywhere(subject.model, _differs(before, _loss(subject, names, seed))):
            return frozenset(names)
        return frozenset(
            name for name in names[:MOST] if not _differs(before, _loss(subject, [name], seed))
        )
    except ProbeError:
        return frozenset()


def _loss(subject: Subject, shifted: Collection[str], seed: int) -> Tensor:
    seed_everything(seed, subject.device)
    modules = dict(subject.model.named_modules())
    handles = [modules[name].register_forward_hook(_shift) for name in shifted]
    try:
        return subject.run().detach()
    finally:
        for handle in handles:
            handle.remove()


def _shift(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    del module, inputs
    return map_tensors(_shifted, outputs)


def _shifted(tensor: Tensor) -> Tensor:
    """Change every element, and none like its neighbour: losses may not feel a constant."""
    if not tensor.is_floating_point():
        return tensor
    waves = torch.arange(tensor.numel(), device=tensor.device, dtype=torch.float32).cos()
    return tensor + waves.view(tensor.shape).to(tensor.dtype)


def _differs(one: Tensor, other: Tensor) -> bool:
    return not torch.equal(one, other)

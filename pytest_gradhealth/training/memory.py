"""Whether there is room for the copy of a model that steps are made on."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.tensors.memory import free_bytes
from pytest_gradhealth.tensors.modules import class_name
from pytest_gradhealth.tensors.unwrap import parts
from pytest_gradhealth.training.kind import is_adaptive
from pytest_gradhealth.training.optimizers import OptimizerLike

#: Numbers that an adaptive optimizer keeps for each number of a parameter.
_ADAPTIVE_STATE = 2
_GIB = 2**30


def check_room(
    modules: Iterable[nn.Module], optimizer: OptimizerLike | None, device: torch.device
) -> None:
    """Raise ProbeError where a copy, its gradients and the optimizer's state do not fit.

    Activations are not counted: those of the first look, which have been freed, did fit. Without a
    word from the system on what is free, nothing is raised.
    """
    modules = list(modules)
    needed, free = bytes_of_steps(modules, optimizer), free_bytes(device)
    if free is None or needed <= free:
        return
    raise ProbeError(
        f"{class_name(modules[0])} has to be looked at again after some training steps, which are"
        f" made on a copy: with gradients and optimizer state that takes {needed / _GIB:.1f} GiB,"
        f" and {device} has {free / _GIB:.1f} GiB left; pass confirm_steps=0 to judge the first"
        " look alone, or a smaller model of the same kind"
    )


def bytes_of_steps(modules: Iterable[nn.Module], optimizer: OptimizerLike | None) -> int:
    """Bytes of parameters, buffers, gradients and, where it is known to have one, a state."""
    tensors = {id(t): t for m in modules for t in (*m.parameters(), *m.buffers())}
    trained = sum(map(_bytes, filter(lambda t: t.requires_grad, tensors.values())))
    state = _ADAPTIVE_STATE * trained if optimizer is None or is_adaptive(optimizer) else 0
    return sum(map(_bytes, tensors.values())) + trained + state


def _bytes(tensor: Tensor) -> int:
    return sum(part.nbytes for part in parts(tensor))

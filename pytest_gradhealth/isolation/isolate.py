"""Leaves all that a probe comes upon as it was, whatever happens in between."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pytest_gradhealth.isolation.checkpoints import left_on_errors
from pytest_gradhealth.isolation.modes import restore_modes
from pytest_gradhealth.isolation.random_state import restore_random_state
from pytest_gradhealth.isolation.snapshot import restore
from pytest_gradhealth.isolation.write_guard import WriteGuard, unguarded
from pytest_gradhealth.tensors.modules import is_fsdp, process_group
from pytest_gradhealth.tensors.trees import tensors

#: Random numbers, warnings and modes belong to the process: one probe after the other.
_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def isolated(
    values: Iterable[Any],
    device: torch.device,
    *,
    batch: Any = None,
    copy: bool | None = None,
    eager: bool = True,
) -> Iterator[None]:
    """Restore on exit all that a forward, a loss, a backward or a hook may have changed.

    That is, of all that is reachable from `values`: attributes, slots, containers, what functions
    close over and the globals that they name, training flags, hooks, arrays, generators, tensors
    (the same ones, bit for bit), `.grad` (the same tensors, untouched); of a `batch` all but the
    tensors of which a run gets copies; the random numbers of Python, NumPy (if loaded), torch and
    the accelerator (if in use); modes and switches of torch. Warnings are kept inside, other
    threads wait. Compiled modules run as they were written (`eager`). Copies are made once
    something writes, where torch can tell; else at once (`copy`), or of large parameters just in
    time, by default as there is memory. Raises ProbeError for those that were written to unseen,
    and stay changed.
    """
    values = list(values)
    with _ONE_AT_A_TIME, ExitStack() as stack, left_on_errors():
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if eager and "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.callback(restore_modes())
        stack.callback(torch.clear_autocast_cache)  # of casts of weights as they were meanwhile
        stack.callback(restore_random_state(device))
        modules = [value for value in values if isinstance(value, nn.Module)]
        _reshard(modules)
        guard = WriteGuard(device, copy)
        with unguarded():
            stack.callback(restore(values, guard))
            copies = {id(t) for t in tensors(batch) if not is_lent(t, device)}
            stack.callback(restore([batch], guard, besides=copies))
        stack.callback(_reshard, modules)
        if guard.watches:
            stack.enter_context(guard)
        yield


def is_lent(tensor: Tensor, device: torch.device) -> bool:
    """Whether a run on a device gets a tensor of the batch itself: a leaf that requires grad.

    A loss may differentiate by it, and what is made of a copy would not depend on it.
    """
    return tensor.requires_grad and tensor.is_leaf and tensor.device == device


def _reshard(roots: Iterable[Any]) -> None:
    """Have modules under fully_shard hold their own parameters again, not those of a forward."""
    if process_group() is not None:
        for root in roots:
            for module in filter(is_fsdp, root.modules()):
                module.reshard()

"""A model on several processes: each has a part of the batch, and gradients are their mean."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pytest_gradhealth.agreement.side import Side
from pytest_gradhealth.distributed.team import exchanged
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.modules import class_name, process_group


@contextmanager
def group() -> Iterator[None]:
    """A group of processes: the caller's, or one of this process alone for the while."""
    if not torch.distributed.is_available():
        raise ProbeError(
            "this build of torch has no torch.distributed, which ddp and fully_shard take"
        )
    if process_group() is not None:
        yield
        return
    dist: Any = torch.distributed
    hook = sys.excepthook  # which torch replaces by one that names the rank
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
        sys.excepthook = hook


def wrapped(subject: Subject) -> Side:
    """The side that runs a subject in DistributedDataParallel."""
    from torch.nn.parallel import DistributedDataParallel

    if subject.device.type == "cpu" and any(map(_syncs, subject.model.modules())):
        raise ProbeError(
            f"{class_name(subject.model)} has SyncBatchNorm, which computes on accelerators alone"
            " in DistributedDataParallel; pass the model as it was before convert_sync_batchnorm"
        )
    ids = None if subject.device.type == "cpu" else [subject.device]
    runner = DistributedDataParallel(subject.model, device_ids=ids)
    return Side(
        subject, f"{class_name(subject.model)} in DistributedDataParallel on {_processes()}", runner
    )


def sharded(subject: Subject) -> Side:
    """The side that runs a subject under fully_shard."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(subject.device.type, (torch.distributed.get_world_size(),))
    all_alike(subject.model)
    name = class_name(subject.model)
    fully_shard(subject.model, mesh=mesh)
    return Side(subject, f"{name} under fully_shard on {_processes()}")


def all_alike(model: nn.Module) -> None:
    """Give all processes the weights and buffers of the first, as DistributedDataParallel does."""
    for tensor in (*model.parameters(), *model.buffers()):
        torch.distributed.broadcast(tensor.data, 0)  # no write that autograd counts


def said_by_all(model: nn.Module, text: str) -> str:
    """What this process says, or else the first other that says anything."""
    heard = (f"on rank {rank}: {said}" for rank, said in exchanged(model, text).items() if said)
    return text or next(heard, "")


def mean(gradient: Tensor) -> Tensor:
    """The mean of what all processes have of a gradient."""
    total = gradient.detach().clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()


def _syncs(module: nn.Module) -> bool:
    return isinstance(module, nn.SyncBatchNorm)


def _processes() -> str:
    n = torch.distributed.get_world_size()
    return "1 process" if n == 1 else f"{n} processes"

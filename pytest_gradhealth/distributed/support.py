"""Models that processes share in a way that cannot be measured, and what to pass instead."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.tensors.modules import class_name, is_ddp, is_fsdp, is_replicated, is_sharded


def check_shared(model: nn.Module, *, is_factory: bool, declared: Sequence[str]) -> None:
    """Raise ProbeError for a model that processes share in a way that cannot be measured.

    `declared` are the names of what was asked for beyond a plain look.
    """
    name, modules = class_name(model), dict(model.named_modules())
    if any(type(m).__name__ == "FullyShardedDataParallel" for m in modules.values()):
        raise ProbeError(
            f"{name} is wrapped in FullyShardedDataParallel, which hides the layers' parameters;"
            " shard it with torch.distributed.fsdp.fully_shard, or probe the model before it is"
            " wrapped"
        )
    if any(map(is_replicated, modules.values())):
        raise ProbeError(
            f"{name} is wrapped by replicate(), whose reducer counts every backward; wrap it in"
            " DistributedDataParallel, or probe the model before it is replicated"
        )
    if is_factory and (is_ddp(model) or is_sharded(model)):
        raise ProbeError(
            f"the model factory returned a {name} that several processes share, which not every"
            " process may build as often; build it once, on every rank, and pass it"
        )
    if is_ddp(model) and is_sharded(model):
        raise ProbeError(
            f"{name} wraps a model with DTensors; pass the model that it wraps, model.module"
        )
    for inner_name, inner in modules.items():
        if inner is not model and is_ddp(inner):
            raise ProbeError(
                f"{inner_name} is a {type(inner).__name__} inside the model; wrap the whole model,"
                f" or probe {inner_name} by itself"
            )
    if not is_sharded(model):
        return
    if not is_fsdp(model) and any(map(is_fsdp, modules.values())):
        raise ProbeError(
            f"parts of {name} are sharded, but not the model itself; call fully_shard on it as well"
        )
    if declared:
        raise ProbeError(
            f"{declared[0]} is not measured on a sharded model; probe the model before it is"
            " sharded"
        )

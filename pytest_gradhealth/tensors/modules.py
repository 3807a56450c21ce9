"""A model as a tree of modules: its parameters, and what may be wrapped around it or in it.

This module imports nothing of torch: what has not been imported, a model cannot be.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

#: Parameters under their first names, with their further ones.
Named: TypeAlias = "dict[str, tuple[nn.Parameter, tuple[str, ...]]]"


def is_ddp(model: Any) -> bool:
    """Whether a model is wrapped in DistributedDataParallel."""
    return _is(model, "torch.nn.parallel.distributed", "DistributedDataParallel")


def is_replicated(module: Any) -> bool:
    """Whether replicate() has been applied to a module, which hangs a reducer on it in place."""
    return _is(module, "torch.distributed._composable.replicate", "DDP")


def is_dtensor(tensor: object) -> bool:
    """Whether a tensor is a DTensor, of which every rank holds a part."""
    return _is(tensor, "torch.distributed.tensor", "DTensor")


def is_fsdp(module: Any) -> bool:
    """Whether the parameters of a module were spread by fully_shard."""
    return _is(module, "torch.distributed.fsdp", "FSDPModule")


def as_written(model: Any) -> Any:
    """The model that torch.compile has wrapped, any other as it is; told by the wrapper's class."""
    if _is(model, "torch._dynamo.eval_frame", "OptimizedModule"):
        return vars(model)["_modules"]["_orig_mod"]
    return model


def runs_compiled(modules: Iterable[nn.Module]) -> bool:
    """Whether a call of one of some modules goes through torch.compile, wrapped or in place."""
    return any(
        as_written(module) is not module or vars(module).get("_compiled_call_impl") is not None
        for module in modules
    )


def class_name(module: Any) -> str:
    """The name of a module's class, as it was before fully_shard or replicate."""
    kind, changed = type(module), is_fsdp(module) or is_replicated(module)
    return str((kind.__bases__[-1] if changed else kind).__name__)


def is_sharded(model: Any) -> bool:
    """Whether no rank can compute a model's outputs alone, because each has a part of it."""
    if process_group() is None or not _is(model, "torch.nn", "Module"):
        return False
    return any(map(is_dtensor, model.parameters())) or any(map(is_fsdp, model.modules()))


def waits_for_others(model: Any) -> bool:
    """Whether the forward of a model may wait for other processes."""
    return is_sharded(model) or is_ddp(model) or is_replicated(model)


def process_group() -> Any:
    """torch.distributed, None if nobody has made a process group."""
    dist: Any = sys.modules.get("torch.distributed")
    return dist if dist is not None and dist.is_available() and dist.is_initialized() else None


def is_process_group(value: object) -> bool:
    """Whether a value is a group of processes, of which there are no copies."""
    return _is(value, "torch.distributed", "ProcessGroup")


def _is(value: object, module: str, name: str) -> bool:
    """Whether a value is of a class that may not have been imported."""
    imported = sys.modules.get(module)
    return imported is not None and isinstance(value, getattr(imported, name, ()))


def named_parameters(model: nn.Module) -> Named:
    """Each parameter once, under its first name, with its further names."""
    names: dict[int, list[str]] = {}
    parameters: dict[int, nn.Parameter] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
        parameters[id(parameter)] = parameter
    return {first: (parameters[key], tuple(rest)) for key, (first, *rest) in names.items()}

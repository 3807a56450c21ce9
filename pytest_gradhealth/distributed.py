"""A model that several processes share: they decide together, so that none waits for another.

Where no process group is initialised, and for models that one process has for itself, nothing here
communicates.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.norms import is_sharded
from pytest_gradhealth.records import Finding

_WRAPPERS = {"DistributedDataParallel", "FullyShardedDataParallel"}


def is_shared(model: object) -> bool:
    """Whether several processes hold a part or a copy of the model and work on it in step."""
    if not isinstance(model, nn.Module):
        return False
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return False
    if distributed.get_world_size() < 2:
        return False
    wrapped = any(type(module).__name__ in _WRAPPERS for module in model.modules())
    return wrapped or any(is_sharded(parameter) for parameter in model.parameters())


def gathered(model: nn.Module, value: Any) -> list[Any]:
    """Return the values of all processes, by rank; of this one alone if the model is its own."""
    if not is_shared(model):
        return [value]
    distributed: Any = sys.modules["torch.distributed"]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def anywhere(model: nn.Module, flag: bool) -> bool:
    """Whether something holds in any of the processes."""
    return any(gathered(model, flag))


@contextmanager
def together(model: nn.Module) -> Iterator[None]:
    """Fail in all processes if the code inside fails in one, instead of leaving the others waiting.

    Raises what the code raised, and ProbeError where another process failed.
    """
    if not is_shared(model):
        yield
        return
    failure: BaseException | None = None
    try:
        yield
    except BaseException as error:
        failure = error
    text = "" if failure is None else f"{type(failure).__name__}: {failure}"
    said = gathered(model, text)
    if failure is not None:
        raise failure
    for rank, words in enumerate(said):
        if words:
            raise ProbeError(f"the process of rank {rank} failed: {words}")


def agreed(model: nn.Module, findings: Sequence[Finding]) -> list[Finding]:
    """Return this process's findings, and the failures of others that it has not seen itself."""
    known = {(f.code, f.layer) for f in findings if f.severity == "failure"}
    found = list(findings)
    for rank, theirs in enumerate(gathered(model, list(findings))):
        for finding in theirs:
            thing = finding.code, finding.layer
            if finding.severity == "failure" and thing not in known:
                known.add(thing)
                message = f"{finding.message} (in the process of rank {rank})"
                found.append(replace(finding, message=message, path=None))
    return found

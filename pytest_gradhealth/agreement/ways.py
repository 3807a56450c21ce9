"""Other ways to run one model: compiled, in another format, on another device, checkpointed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pytest_gradhealth.agreement.checkpointing import checkpointed
from pytest_gradhealth.agreement.processes import sharded, wrapped
from pytest_gradhealth.agreement.side import Side
from pytest_gradhealth.config.arguments import require
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.formatting import meant_by, shown, told
from pytest_gradhealth.subject.calling import Called, as_called, name_of
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.devices import choose_device
from pytest_gradhealth.tensors.modules import as_written, class_name
from pytest_gradhealth.tensors.trees import map_tensors
from pytest_gradhealth.training.copies import copied

#: A way to run a model by its name, or a function that makes of a model what is to be called.
Way = str | Callable[[nn.Module], Any]


@dataclass(frozen=True)
class Compiling:
    """How a model is to be compiled, as torch.compile has it; None for its defaults."""

    backend: Any = None
    mode: str | None = None

    def compiled(self, model: nn.Module) -> nn.Module:
        """The compiled model; raises ProbeError for a backend or a mode that there is not."""
        self._check()
        chosen = {"backend": self.backend, "mode": self.mode}
        given = {name: value for name, value in chosen.items() if value is not None}
        compiled: Any = torch.compile(model, dynamic=False, **given)
        assert isinstance(compiled, nn.Module)
        return compiled

    def _check(self) -> None:
        if self.backend is not None and not callable(self.backend):
            known = torch.compiler.list_backends(exclude_tags=())
            usual = ", ".join(torch.compiler.list_backends())
            names = meant_by(str(self.backend), known) or f"there are {usual}"
            advice = f'the name of one or a function, for example "aot_eager"; {names}'
            require("backend", self.backend, known.__contains__, advice)
        if self.mode is not None:
            from torch._inductor import list_mode_options

            modes = [*list_mode_options()]
            require("mode", self.mode, modes.__contains__, f"one of {', '.join(modes)}")
            if self.backend not in (None, "inductor"):
                raise ProbeError(
                    "mode is of the backend inductor, and another one was passed; leave one out"
                )


def twin_of(subject: Subject) -> Subject:
    """A copy of a subject, which is ours to change."""
    with subject.isolated():
        twin, _ = copied(subject, None, subject.device)
    return twin


def side_by(way: Way, subject: Subject, compiling: Compiling) -> Side:
    """The side that runs a subject in another way, which changes it: it is to be a copy.

    Raises ProbeError for a way that there is not, or that cannot be gone with this model or here.
    """
    if not isinstance(way, str):
        return _by_function(way, subject)
    if way == "compile":
        return compiled_side(subject, compiling)
    if way in _WAYS or way in _FORMATS:
        make = _WAYS[way] if way in _WAYS else partial(in_format, dtype=_FORMATS[way])
        try:
            return make(subject)
        except ProbeError:
            raise
        except Exception as error:
            raise ProbeError(
                f'{class_name(subject.model)} cannot be run via "{way}": {told(error)}'
            ) from error
    try:
        device = torch.device(way)
    except RuntimeError as error:
        known = ["compile", *_WAYS, *_FORMATS, "cuda"]
        meant = meant_by(way, known) or f"the ways are {', '.join(known)}, or a function"
        raise ProbeError(f"via is {shown(way)}, which is no way to run a model; {meant}") from error
    return _on_device(subject, choose_device(str(device), subject.model, "via"))


def compiled_side(subject: Subject, compiling: Compiling, runner: nn.Module | None = None) -> Side:
    """The side that runs a subject compiled, by a `runner` that is compiled already or is made."""
    made = compiling.compiled(subject.model) if runner is None else runner
    backend = compiling.backend or "inductor"
    mode = f", mode {compiling.mode}" if compiling.mode else ""
    name = "compiled" if runner is not None else f"compiled by {_named(backend)}{mode}"
    name = f"{class_name(subject.model)} {name}"
    within = partial(_compiling, [*subject.model.modules()])
    return Side(subject, name, made, compiled=True, within=within)


def _called(subject: Subject, how: str) -> str:
    return f"{class_name(subject.model)} {how}"


def _named(backend: Any) -> str:
    return backend if isinstance(backend, str) else name_of(backend)


@contextmanager
def _compiling(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Compile whatever was compiled before, with the random numbers that eager code draws.

    What is kept of it with the code of a class, which counts towards the limit of recompilations,
    is forgotten, unless there was something already.
    """
    from torch._C._dynamo.eval_frame import _debug_get_cache_entry_list, reset_code
    from torch._dynamo import config as dynamo
    from torch._inductor import config as inductor

    found = (getattr(type(module).forward, "__code__", None) for module in modules)
    codes = [
        code
        for code in dict.fromkeys(found)
        if code is not None and not _debug_get_cache_entry_list(code)
    ]
    limits: dict[str, Any] = {name: _NO_LIMIT for name in _LIMITS if hasattr(dynamo, name)}
    try:
        with dynamo.patch(limits), inductor.patch(fallback_random=True):
            yield
    finally:
        for code in codes:
            reset_code(code)


def _autocast(subject: Subject) -> Side:
    kind = subject.device.type
    dtype = torch.get_autocast_dtype(kind)
    name = _called(subject, f"under autocast to {str(dtype).removeprefix('torch.')}")
    return Side(subject, name, within=partial(torch.autocast, kind, dtype), format=dtype)


def _on_device(subject: Subject, device: torch.device) -> Side:
    for module in subject.modules:
        module.to(device)
    moves = device.type != subject.device.type
    made = replace(subject, device=device)
    return Side(made, _called(subject, f"on {device}"), draws_otherwise=moves)


def in_format(subject: Subject, dtype: torch.dtype) -> Side:
    """The side that computes in another format; complex numbers stay as they are."""
    for module in subject.modules:
        {torch.float64: module.double, torch.float16: module.half}.get(dtype, module.bfloat16)()

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    cast_targets = map_tensors(cast, subject.targets)
    made = replace(subject, inputs=_with_inputs(subject, cast), targets=cast_targets)
    name = _called(subject, f"in {str(dtype).removeprefix('torch.')}")
    return Side(made, name, format=dtype)


def _channels_last(subject: Subject) -> Side:
    def last(tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor

    nn.Module.to(subject.model, memory_format=torch.channels_last)  # whatever else it calls `to`
    made = replace(subject, inputs=_with_inputs(subject, last))
    return Side(made, _called(subject, "in channels_last"))


def _with_inputs(subject: Subject, change: Callable[[Tensor], Tensor]) -> Any:
    called = as_called(subject.inputs)
    changed = map_tensors(change, called.inputs)
    return Called(changed, called.call) if called.call else changed


def _checkpointed(subject: Subject) -> Side:
    checkpointed(subject.model)
    return Side(subject, _called(subject, "checkpointed"))


def _by_function(way: Callable[[nn.Module], Any], subject: Subject) -> Side:
    name = _called(subject, f"by {name_of(way)}")
    try:
        made = way(subject.model)
    except Exception as error:
        raise ProbeError(f"via {name_of(way)} raised {told(error)}") from error
    if not callable(made):
        raise ProbeError(
            f"via {name_of(way)} returned {shown(made)}; return what is to be called with the"
            " inputs: a module, or a function"
        )
    if not isinstance(made, nn.Module):
        inputs = as_called(subject.inputs).inputs
        call = partial(_without_model, made)
        return Side(replace(subject, inputs=Called(inputs, call)), name)
    written = as_written(made)
    if written is not made:
        return replace(compiled_side(subject, Compiling(), made), name=name)
    own = {id(p) for p in made.parameters()}
    if own.isdisjoint(id(p) for p in subject.model.parameters()):
        return Side(replace(subject, model=made), name)
    return Side(subject, name, made)


def _without_model(function: Callable[..., Any], model: nn.Module, *args: Any, **named: Any) -> Any:
    del model
    return function(*args, **named)


#: What dynamo allows of recompilations, by the names that its versions have for that.
_LIMITS = (
    *("recompile_limit", "accumulated_recompile_limit"),
    *("cache_size_limit", "accumulated_cache_size_limit"),
)
_NO_LIMIT = 2**20
_FORMATS = {"float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
_WAYS: Mapping[str, Callable[[Subject], Side]] = {
    "autocast": _autocast,
    "checkpoint": _checkpointed,
    "channels_last": _channels_last,
    "ddp": wrapped,
    "fully_shard": sharded,
}

"""What cuts parameters off from the loss: functions without a slope, and passages without gradient.

Seen by what functions are given and return: of something that depends on the parameters they make
what does not.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.isolation.checkpoints import REENTRANT
from pytest_gradhealth.measure.calls import Calls
from pytest_gradhealth.results.names import OUTPUT
from pytest_gradhealth.results.profile import Stop
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.graph import walk
from pytest_gradhealth.tensors.modules import waits_for_others
from pytest_gradhealth.tensors.trees import tensors

#: Functions that make plain numbers of tensors. What else returns none only looks at a tensor.
_NUMBERS = frozenset({"numpy", "item", "tolist", "__array__", "__float__", "__int__"})


def cuts(subject: Subject, names: Collection[str], *, seed: int) -> tuple[Stop, ...]:
    """Return what cuts some parameters off, in the order of the forward.

    Nothing for those that several functions cut off (one of which may only be for a log), or where
    the model waits for other processes. To be called inside `isolated`.
    """
    if waits_for_others(subject.model):
        return ()
    parameters = {id(p): n for n, p in subject.model.named_parameters() if n in names}
    calls = Calls(subject.model)
    watch = _Watch(parameters, calls)
    try:
        run = Pass(subject, seed)
        with calls.attached(), watch:
            run.run()
    except (ProbeError, RuntimeError):
        return ()
    found: dict[Stop, list[str]] = {}
    for name, stops in watch.found.items():
        if len({stop.op for stop in stops}) == 1:
            found.setdefault(next(iter(stops)), []).append(name)
    return tuple(replace(stop, parameters=tuple(sorted(cut))) for stop, cut in found.items())


class _Watch(TorchFunctionMode):
    """Notes the functions that make what needs no gradient of what depends on some parameters."""

    def __init__(self, parameters: Mapping[int, str], calls: Calls) -> None:
        super().__init__()
        self.found: dict[str, dict[Stop, None]] = {}
        self._parameters = parameters
        self._calls = calls

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = [t for t in tensors((args, kwargs)) if t.requires_grad]
        result = func(*args, **(kwargs or {}))
        if given and self._is_cut(func, result):
            stop = self._stop(func)
            for leaf in {id(leaf) for tensor in given for leaf in _leaves(tensor)}:
                if leaf in self._parameters:
                    self.found.setdefault(self._parameters[leaf], {})[stop] = None
        return result

    def _is_cut(self, func: Any, result: Any) -> bool:
        made = [*tensors(result)]
        if not made:
            return _name(func) in _NUMBERS
        return not any(tensor.requires_grad for tensor in made)

    def _stop(self, func: Any) -> Stop:
        layer, kind = self._calls.innermost()
        if torch.is_grad_enabled():
            return Stop(_name(func), layer or OUTPUT, kind, "in")
        return Stop("checkpoint" if _is_in_checkpoint() else "no_grad", layer or OUTPUT, kind)


def _leaves(tensor: Tensor) -> Collection[Tensor]:
    return [tensor] if tensor.is_leaf else walk(tensor).leaves


def _name(func: Any) -> str:
    """What a function is called where it is typed: "detach", "data", "argmax"."""
    name = (resolve_name(func) or "").removesuffix(".__get__")
    return name.rpartition(".")[2]


def _is_in_checkpoint() -> bool:
    """Whether a re-entrant checkpoint is running, which runs without gradient at first."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code is REENTRANT.forward.__code__:
            return True
        frame = frame.f_back
    return False

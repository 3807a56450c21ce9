"""Which module is running, and in which call of which one a node of the graph was made."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from pytest_gradhealth.measure.recorder import recorded_modules
from pytest_gradhealth.tensors.graph import sequence_number
from pytest_gradhealth.tensors.hooks import hooked
from pytest_gradhealth.tensors.modules import class_name


@dataclass
class Call:
    """One call of a module, with the autograd sequence numbers at which it began and ended.

    `grad` says whether it began with gradients enabled.
    """

    name: str
    type: str
    begin: int
    end: float = math.inf
    grad: bool = True


@dataclass
class Calls:
    """The calls of a model's modules in one forward; what watches them is told of each."""

    model: nn.Module
    all: list[Call] = field(default_factory=list)
    running: list[Call] = field(default_factory=list)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hooks on every module for the length of the context; none is left afterwards."""
        with hooked(self._hooks()):
            yield

    def owner(self, node: Node) -> Call | None:
        """The innermost call in which a node of the graph was made."""
        number = node._sequence_nr()
        around = [call for call in self.all if call.begin <= number < call.end]
        return max(around, key=lambda call: call.begin, default=None)

    def innermost(self) -> tuple[str, str]:
        """Name and type of the innermost module that runs, empty where none does."""
        return (self.running[-1].name, self.running[-1].type) if self.running else ("", "")

    def begun(self, given: Any) -> None:
        """A call begins with what it is given."""

    def ended(self, call: Call, module: nn.Module, outputs: Any) -> None:
        """A call ends with what it returns."""

    def _hooks(self) -> Iterator[RemovableHandle]:
        for name, module in recorded_modules(self.model):
            yield module.register_forward_pre_hook(self._before(name), with_kwargs=True)
            yield module.register_forward_hook(self._after)

    def _before(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            self.begun((args, kwargs))
            enabled = torch.is_grad_enabled()
            call = Call(name, class_name(module), sequence_number(), grad=enabled)
            self.running.append(call)
            self.all.append(call)

        return hook

    def _after(self, module: nn.Module, _: Any, outputs: Any) -> None:
        call = self.running.pop()
        call.end = sequence_number()
        self.ended(call, module, outputs)

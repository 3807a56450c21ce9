"""One side of a comparison: how a subject is run, and the tensors that a run of it makes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pytest_gradhealth.distributed.team import anywhere
from pytest_gradhealth.measure.recorder import Key, recorded_modules
from pytest_gradhealth.results.agreement import Kind
from pytest_gradhealth.results.names import OUTPUT
from pytest_gradhealth.subject.calling import as_called
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.graph import Edge, edge_of
from pytest_gradhealth.tensors.hooks import hooked
from pytest_gradhealth.tensors.modules import named_parameters
from pytest_gradhealth.tensors.trees import tensors
from pytest_gradhealth.tensors.unwrap import packed, whole

#: What a tensor is of: its kind, a name, and for what layers return the call and which it is of it.
Place = tuple[Kind, str, int, int]
#: The tensors of a run, in the order in which they came up: forward before backward.
Reading = dict[Place, Tensor]
#: Tensors that layers return, by module, call and output; or those of all layers.
Layers = Collection[Key] | Literal["all"]


@dataclass(frozen=True)
class Side:
    """A subject, and how it is run.

    `name` is what messages call it. A `runner` is called in place of the model, whose parameters it
    computes with; one that is `compiled` shows nothing of its layers. A forward is made `within` a
    context; it computes in a `format`, by default that of the weights. `averaged` makes of a
    gradient what all processes together have of it. Before a run, `changes` are made to the model,
    and undone behind it. One that `draws_otherwise` has dropout in kernels of other random numbers.
    """

    subject: Subject
    name: str
    runner: nn.Module | None = None
    compiled: bool = False
    within: Callable[[], AbstractContextManager[Any]] = nullcontext
    averaged: Callable[[Tensor], Tensor] | None = None
    format: torch.dtype | None = None
    changes: tuple[Callable[[nn.Module], None], ...] = ()
    draws_otherwise: bool = False

    def changed(self, change: Callable[[nn.Module], None]) -> Side:
        """The side with one more change of its model before a run; it is to write to `.data`."""
        return replace(self, changes=(*self.changes, change))

    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of the model, each under its first name."""
        return {n: p for n, (p, _) in named_parameters(self.subject.model).items()}

    def read(
        self, *, seed: int, layers: Layers = (), beside: AbstractContextManager[Any] | None = None
    ) -> Reading:
        """Run forward and backward, and return outputs, loss and gradients, and those of `layers`.

        Random numbers are drawn from `seed`; what is `beside` surrounds both passes. Raises
        ProbeError if the model, the loss or the backward fails.
        """
        subject = replace(self.subject, copy=True) if self.changes else self.subject
        with subject.isolated(eager=not self.compiled):
            for change in self.changes:
                change(subject.model)
            return self._read(seed, layers, beside or nullcontext())

    def _read(self, seed: int, layers: Layers, beside: AbstractContextManager[Any]) -> Reading:
        called = self.subject if self.runner is None else replace(self.subject, model=self.runner)
        run, record = Pass(called, seed), _Record(layers)
        with hooked(record.hooks(self.subject.model)) as record.handles, beside:
            with self.within():
                run.forward()
                record.active = False
                loss = run.loss()
            for name, tensor in _named(run.outputs):
                record.forward["output", name, 0, 0] = _kept(tensor)
            record.forward["loss", "", 0, 0] = _kept(loss)
            run.graph(loss)
            with run.own_gradients():
                record.follow(self.parameters())
                run.backward(loss)
                found = {name: p.grad for name, p in self.parameters().items()}
                record.inputs(as_called(run.inputs).inputs)
        if self.averaged is not None:
            anywhere(self.subject.model, False)  # who has failed is not waited for
        for name, gradient in found.items():
            made = gradient
            if self.averaged is not None and self.parameters()[name].requires_grad:
                # Whoever has none takes part, too.
                mine = torch.zeros_like(self.parameters()[name]) if gradient is None else gradient
                made = self.averaged(mine)
            if made is not None:
                record.backward["parameter gradient", name, 0, 0] = _kept(made)
        return record.forward | {k: t for k, t in record.backward.items() if t is not None}


class _Record:
    """What hooks keep of some layers in a run, and when the gradients of parameters came by."""

    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        self.active = True
        self.forward: Reading = {}
        self.backward: dict[Place, Tensor | None] = {}
        self.handles: list[RemovableHandle] = []
        self._calls: Counter[str] = Counter()
        self._edges: set[Edge] = set()

    def hooks(self, model: nn.Module) -> Iterator[RemovableHandle]:
        """Hook the modules that return what is to be kept."""
        modules = dict(recorded_modules(model))
        modules.pop(OUTPUT)
        for name in modules if self.layers == "all" else dict.fromkeys(k[0] for k in self.layers):
            yield modules[name].register_forward_hook(partial(self._returned, name))

    def follow(self, parameters: dict[str, nn.Parameter]) -> None:
        """Keep a place for the gradient of each parameter, where it comes by."""
        for name, parameter in parameters.items():
            if parameter.requires_grad:
                hook = partial(self._came, name)
                handle = parameter.register_hook(hook)  # type: ignore[no-untyped-call]
                self.handles.append(handle)

    def inputs(self, batch: Any) -> None:
        """Keep the gradients of inputs that require one, zeros of those that have none."""
        for name, tensor in _named(batch):
            if tensor.requires_grad:
                made = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
                self.backward["input gradient", name, 0, 0] = _kept(made)

    def _returned(self, name: str, module: nn.Module, inputs: Any, outputs: Any) -> None:
        del module, inputs
        if not self.active:  # a checkpoint that computes anew
            return
        call = self._calls[name]
        self._calls[name] += 1
        for number, tensor in enumerate(tensors(outputs)):
            if tensor.requires_grad and self._is_wanted(name, call, number, edge_of(tensor)):
                self.forward["activation", name, call, number] = _kept(tensor)
                hook = partial(self._passed, ("layer gradient", name, call, number))
                self.handles.append(tensor.register_hook(hook))  # type: ignore[no-untyped-call]

    def _is_wanted(self, name: str, call: int, number: int, edge: Edge) -> bool:
        """Whether a tensor is to be kept: of all, each once, as the innermost layer returned it."""
        if self.layers != "all":
            return (name, call, number) in self.layers
        known = edge in self._edges
        self._edges.add(edge)
        return not known

    def _passed(self, place: Place, gradient: Tensor | None) -> None:
        if gradient is not None:
            self.backward[place] = _kept(gradient)

    def _came(self, name: str, gradient: Tensor) -> None:
        del gradient
        self.backward["parameter gradient", name, 0, 0] = None


def _named(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in what a model takes or returns, by their keys and numbers."""
    if isinstance(value, Tensor):
        yield name or "0", value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _named(item, f"{name}.{key}" if name else str(key))
    else:
        parts = value if isinstance(value, (tuple, list)) else [*tensors(value)]
        for number, item in enumerate(parts):
            yield from _named(item, f"{name}.{number}" if name else str(number))


def _kept(tensor: Tensor) -> Tensor:
    """A copy of all elements, whatever holds them."""
    plain = whole(tensor.detach())
    sparse = plain.layout is not torch.strided and not plain.is_nested
    return packed(plain.to_dense() if sparse else plain).clone()
